"""The wire form of ComfyUI's own containers of tensors: latents of several parts, CLIP vision's outputs."""

from __future__ import annotations

import importlib
from typing import Any

from ...backends.base import ModelRunError
from ...io.tree import MAX_DEPTH

# A dict with this key stands for one of ComfyUI's objects.
_KIND = "__comfyui__"
_NESTED = "NestedTensor"
_CLIP_VISION = "ClipVisionOutput"
_KINDS = {("comfy.nested_tensor", "NestedTensor"): _NESTED, ("comfy.clip_vision", "Output"): _CLIP_VISION}
_FIELD = {_NESTED: "tensors", _CLIP_VISION: "fields"}


def to_plain(value: Any, depth: int = 0) -> Any:
    """Return the same tree with ComfyUI's containers as dicts; anything else stays as it is."""
    if depth > MAX_DEPTH:
        return value
    kind = _kind_of(value)
    if kind is not None:
        content = list(value.tensors) if kind == _NESTED else vars(value)
        return {_KIND: kind, _FIELD[kind]: to_plain(content, depth + 1)}
    if type(value) is dict:
        return {key: to_plain(item, depth + 1) for key, item in value.items()}
    if type(value) in {list, tuple}:
        return type(value)(to_plain(item, depth + 1) for item in value)
    return value


def _kind_of(value: Any) -> str | None:
    """Return the kind of one of ComfyUI's containers, or of one derived from it; None for another value."""
    names = ((kind.__module__, kind.__name__) for kind in type(value).__mro__)
    return next((_KINDS[name] for name in names if name in _KINDS), None)


def from_plain(value: Any) -> Any:
    """Return the tree with ComfyUI's containers, from the form of `to_plain`.

    Raises:
        ModelRunError: a dict stands for an object that this ComfyUI does not have.
    """
    if isinstance(value, dict):
        items = {key: from_plain(item) for key, item in value.items()}
        return _object(items) if _KIND in items else items
    if isinstance(value, list | tuple):
        return type(value)(from_plain(item) for item in value)
    return value


def _object(items: dict[Any, Any]) -> Any:
    kind = items[_KIND]
    content = items.get(_FIELD[kind]) if isinstance(kind, str) and kind in _FIELD else None
    if kind == _NESTED and isinstance(content, list):
        return _nested(content)
    if kind == _CLIP_VISION and isinstance(content, dict) and all(map(_is_field, content)):
        output = importlib.import_module("comfy.clip_vision").Output()
        vars(output).update(content)
        return output
    raise ModelRunError("A value of the run is not of a form known here: use the same release on both sides.")


def _nested(tensors: list[Any]) -> Any:
    try:
        return importlib.import_module("comfy.nested_tensor").NestedTensor(tensors)
    except ImportError as error:
        raise ModelRunError(
            "This worker's ComfyUI knows no latents of several parts (audio with video): update it."
        ) from error


def _is_field(name: Any) -> bool:
    return isinstance(name, str) and name.isidentifier() and not name.startswith("_")
