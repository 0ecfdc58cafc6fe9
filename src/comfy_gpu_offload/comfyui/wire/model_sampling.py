"""The wire form of a model's sampling: its sigmas, shift and kind of prediction, described and rebuilt.

Nodes such as ModelSamplingSD3 replace a model's `model_sampling` by an object of a class that they make for it out
of ComfyUI's own and add nothing to. The names of those classes and the object's numbers are therefore enough.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import comfy.model_sampling
import torch

from ...backends.base import ModelRunError
from ...errors import UnsupportedValueError
from ..installation import stock_nodes

# The only other classes that ComfyUI's nodes build a sampling of. They are in a module of nodes, which a worker
# imports for nothing else, and which takes a second.
_NODE_CLASSES = ("LCM", "ModelSamplingDiscreteDistilled")
_NODE_MODULE = "nodes_model_advanced"
_MODULE_FIELDS = frozenset(vars(torch.nn.Module()))
_PATH = "model_sampling"
# Stock ones have at most 10 000 sigmas.
_MAX_NUMBERS = 100_000


def describe_sampling(sampling: Any) -> dict[str, Any]:
    """Return ``classes`` by name in order, ``buffers`` and plain ``values``, of which a worker builds the same.

    Raises:
        UnsupportedValueError: it is made of other classes than ComfyUI's own, or holds more than numbers.
    """
    kind = type(sampling)
    bases = tuple(_bases(kind))
    names = [_name_of(base) for base in bases]
    known = [name for name in names if name is not None]
    if len(known) < len(names) or not _is_made_of(kind, bases):
        raise _refusal(kind, "its class is a node's own, not one of ComfyUI's")
    _, expected = _state(_blank(bases))
    buffers, values = _state(sampling)
    for name, value in values.items():
        if name not in expected or not _is_number(value):
            raise _refusal(kind, f"its {name} is a node's own")
    return {"classes": known, "buffers": buffers, "values": values}


def build_sampling(data: Any) -> torch.nn.Module:
    """Rebuild a sampling from the form of `describe_sampling`, with this ComfyUI's classes.

    Raises:
        ModelRunError: it is not of that form, or names what this ComfyUI does not have.
    """
    if not isinstance(data, dict) or set(data) != {"classes", "buffers", "values"}:
        raise ModelRunError("The model's sampling is not of a form known here: use the same release on both sides.")
    if not isinstance(data["classes"], list) or not 0 < len(data["classes"]) < 8:
        raise ModelRunError("The model's sampling names no classes: use the same release on both sides.")
    try:
        sampling: torch.nn.Module = _blank(tuple(_class_named(name) for name in data["classes"]))
    except TypeError as error:
        raise ModelRunError(
            "The model's sampling names classes that do not go together: use the same release on both sides."
        ) from error
    buffers, values = _state(sampling)
    for name, tensor in _checked(data["buffers"], buffers).items():
        if not isinstance(tensor, torch.Tensor):
            raise ModelRunError(
                f"The {name} of the model's sampling is no tensor: use the same release on both sides."
            )
        sampling.register_buffer(name, tensor)
    for name, value in _checked(data["values"], values).items():
        setattr(sampling, name, value)
    return sampling


def _bases(kind: type) -> Iterator[type]:
    """Return the named classes that `kind` is made of, in order: itself, unless it adds nothing to its bases."""
    if _name_of(kind) is None and _adds_nothing(kind):
        for base in kind.__bases__:
            yield from _bases(base)
    else:
        yield kind


def _adds_nothing(kind: type) -> bool:
    return (
        "<locals>" in kind.__qualname__
        and all(name.startswith("__") for name in vars(kind))
        and ("__init__" not in vars(kind) and "__getattr__" not in vars(kind))
    )


def _is_made_of(kind: type, bases: tuple[type, ...]) -> bool:
    """Return whether a class of these bases resolves every name as `kind` does, and is a module."""
    try:
        made = type(kind.__name__, bases, {})
    except TypeError:
        return False
    stock = [part for part in kind.__mro__ if not _adds_nothing(part)]
    return issubclass(made, torch.nn.Module) and stock == list(made.__mro__[1:])


def _name_of(kind: type) -> str | None:
    """Return the name by which the other end finds the class; None where there is none."""
    name = kind.__name__
    if kind.__module__ == comfy.model_sampling.__name__:
        return name if getattr(comfy.model_sampling, name, None) is kind else None
    return name if name in _NODE_CLASSES and stock_nodes.is_of(kind.__module__, _NODE_MODULE) else None


def _class_named(name: Any) -> type:
    found = vars(comfy.model_sampling).get(name) if isinstance(name, str) else None
    if isinstance(found, type) and found.__module__ == comfy.model_sampling.__name__:
        return found
    if name in _NODE_CLASSES:
        kind: type = getattr(stock_nodes.imported(_NODE_MODULE), name)
        return kind
    raise ModelRunError(
        f"This worker's ComfyUI has no model sampling {name!r:.80}: use the same release on both sides."
    )


def _blank(bases: tuple[type, ...]) -> Any:
    """Return a sampling of these classes with their defaults, whose fields are the ones allowed."""
    kind = type("ModelSampling", bases, {})
    if not issubclass(kind, torch.nn.Module):
        raise TypeError("no class among them has sigmas")
    return kind()


def _state(sampling: Any) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    buffers = {name: tensor for name, tensor in sampling.named_buffers() if tensor is not None}
    values = {name: value for name, value in vars(sampling).items() if name not in _MODULE_FIELDS}
    return buffers, values


def _checked(given: Any, expected: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(given, dict) or not set(given) <= set(expected) or not all(map(_is_number, given.values())):
        raise ModelRunError(
            "The model's sampling has fields that this ComfyUI's lacks: use the same release on both sides."
        )
    return given


def _is_number(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return value.numel() <= _MAX_NUMBERS
    return value is None or isinstance(value, bool | int | float)


def _refusal(kind: type, why: str) -> UnsupportedValueError:
    return UnsupportedValueError(_PATH, f"{kind.__module__}.{kind.__qualname__}", why)
