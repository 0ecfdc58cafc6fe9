"""The state of a ComfyUI model outside of its network, as it was loaded, by which a node's changes are noticed.

It consists of code and numbers that the sampling loop uses. Changes to it have their effect if the loop runs here.
A worker that runs the whole loop has a model of its own, without them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from . import loaded_code
from .network_parts import Change

# Attributes in which ComfyUI itself keeps notes on a model that it loads and runs.
_NOTES = frozenset(
    {
        "current_patcher",
        "current_weight_patches_uuid",
        "device",
        "dynamic_patchers",
        "dynamic_pins",
        "dynamic_vbars",
        "latent_shapes",
        "lowvram_patch_counter",
        "model_loaded_weight_memory",
        "model_lowvram",
        "model_offload_buffer_memory",
        "training",
    }
)
_PARTS = ("model_sampling", "latent_format")
_ABSENT = object()


class ModelState:
    """A model's attributes, its sampling and its latent format, as they were when this was made."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._kind = type(model)
        self._attributes = _attributes(model)
        self._parts = {name: (getattr(model, name, None), _state(getattr(model, name, None))) for name in _PARTS}
        self._code = loaded_code.of_sampling(model)

    def changed(self, patched: Mapping[str, Any]) -> Change | None:
        """Return an attribute that has changed, with its new value; None if none has.

        Args:
            patched: the model's own attributes that ComfyUI's object patches have replaced for now, by name.
        """
        if type(self._model) is not self._kind:
            return Change("__class__", type(self._model))
        return next(self._changes(patched), None) or self._code.replaced()

    @property
    def foreign(self) -> tuple[Change, ...]:
        """The names of ComfyUI's sampling that packs had replaced before prompts ran, with their values."""
        return self._code.foreign

    def _changes(self, patched: Mapping[str, Any]) -> Iterator[Change]:
        now = {**_attributes(self._model), **{name: patched[name] for name in patched if "." not in name}}
        for name in {**self._attributes, **now}:
            value, was = now.get(name, _ABSENT), self._attributes.get(name, _ABSENT)
            # A new attribute that the model's class does not have is not read by its code.
            if not _same(value, was) and (was is not _ABSENT or hasattr(self._kind, name)):
                yield Change(name, value)
        for name, (part, was) in self._parts.items():
            if not _same_state(_state(part), was):
                yield Change(name)


def _attributes(model: Any) -> dict[str, Any]:
    found = {**vars(model), **model._modules}
    return {name: value for name, value in found.items() if name not in _NOTES and not name.startswith("_")}


def _state(part: Any) -> dict[str, Any]:
    """Return an object's public attributes and buffers; tensors are copied, because they may be written to."""
    if part is None:
        return {}
    found = {name: value for name, value in vars(part).items() if not name.startswith("_")}
    found |= vars(part).get("_buffers", {})
    return {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in found.items()}


def _same_state(now: Mapping[str, Any], was: Mapping[str, Any]) -> bool:
    return now.keys() == was.keys() and all(_same(now[name], was[name]) for name in now)


def _same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        # Sampling moves it to its device.
        return one.shape == other.shape and torch.equal(one.cpu(), other.cpu())
    try:
        return type(one) is type(other) and bool(one == other)
    except Exception:  # an object's own comparison may raise
        return False
