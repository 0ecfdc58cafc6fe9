"""Methods of a remote diffusers model besides its forward pass: an autoencoder's `encode` and `decode`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import torch

from ..io.tree import Record
from ..protocol.model_methods import DISTRIBUTION


def methods_in(details: Any) -> Mapping[str, frozenset[str]]:
    """Return the methods that a worker's description of a model lists, with the arguments that each ignores."""
    listed = details.get("methods") if isinstance(details, dict) else None
    if not isinstance(listed, dict):  # of an earlier release, or of another backend
        return {}
    return {name: frozenset(map(str, ignored)) for name, ignored in listed.items() if isinstance(ignored, list)}


def from_plain(result: Any) -> Any:
    """Return a result with diffusers' own distributions in the place of their plain form.

    Raises:
        ImportError: diffusers is not installed here.
    """
    if isinstance(result, Record):
        return Record({name: from_plain(value) for name, value in result.items()})
    if type(result) in {list, tuple}:
        return type(result)(map(from_plain, result))
    if not isinstance(result, dict) or not isinstance(result.get(DISTRIBUTION), torch.Tensor):
        return result
    kind = importlib.import_module("diffusers.models.autoencoders.vae").DiagonalGaussianDistribution
    return kind(result[DISTRIBUTION], deterministic=bool(result.get("deterministic")))
