"""The methods of a diffusers or transformers model that calls may name, and their results as plain data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

from ...protocol.messages import FORWARD
from ...protocol.model_methods import DECODE, DISTRIBUTION, ENCODE
from ..base import ModelRunError

METHODS = frozenset({ENCODE, DECODE})
# Autoencoders whose `decode` takes a generator, as pipelines give one, and draws nothing from it.
_DRAW_NOTHING = frozenset({"AutoencoderKL", "AutoencoderTiny"})


def methods_of(module: torch.nn.Module) -> Mapping[str, list[str]]:
    """Return the methods of a model besides its forward pass, each with the names of arguments that it ignores."""
    ignored = {DECODE: ["generator"]} if type(module).__name__ in _DRAW_NOTHING else {}
    return {name: ignored.get(name, []) for name in sorted(METHODS) if _has(module, name)}


def method(module: torch.nn.Module, name: str) -> Callable[..., Any]:
    """Return a method of a model by its name.

    Raises:
        ModelRunError: the model has no such method for calls.
    """
    if name == FORWARD:
        return module
    if name not in METHODS or not _has(module, name):
        raise ModelRunError(
            f"The model {type(module).__name__} has no method {name!r:.80} for calls: check its name."
        )
    found: Callable[..., Any] = getattr(module, name)
    return found


def _has(module: torch.nn.Module, name: str) -> bool:
    return callable(getattr(type(module), name, None))


def plain(result: Any) -> Any:
    """Return a result with the distributions of autoencoders as plain data: `protocol.model_methods`."""
    if isinstance(result, DiagonalGaussianDistribution):
        return {DISTRIBUTION: result.parameters, "deterministic": bool(result.deterministic)}
    if isinstance(result, dict):
        for key, value in result.items():
            result[key] = plain(value)
        return result
    return type(result)(map(plain, result)) if type(result) in {list, tuple} else result
