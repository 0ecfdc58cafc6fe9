"""The worker's reader of weight patches, which checks everything; `wire.patch_form` is their form."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from pydantic import ValidationError

from ...backends.base import BadPatchesError, PatchSet
from ...io.digests import DIGEST_BYTES
from ...protocol.messages import ModelRef
from .patch_form import (
    FORMS,
    FUNCTIONS,
    MAX_MODELS,
    MERGE,
    MODELS,
    NETWORK,
    TUPLES,
    check_strength,
    check_values,
    offset_of,
    refuse_too_deep,
    shape_of,
)
from .patch_shapes import NotDataError, Offset, Shape, fitted, part_of

# A second model's weights by key, each with the function that converts it.
Weights = Mapping[str, tuple[torch.Tensor, Callable[..., Any]]]
# A patch as ComfyUI has it.
Patch = tuple[Any, ...]


def merged_models(patches: PatchSet) -> list[tuple[ModelRef, str]]:
    """Return the models that are merged in, with their fingerprints; what came over the wire is checked.

    Raises:
        BadPatchesError: it is malformed.
    """
    listed = patches.template.get(MODELS, []) if isinstance(patches.template, dict) else []
    if not isinstance(listed, list) or len(listed) > MAX_MODELS or not all(map(_is_model, listed)):
        raise BadPatchesError("The weight patches are refused: the list of models to merge is malformed.")
    try:
        return [
            (ModelRef(name=name, weight_dtype=dtype, **(further[0] if further else {})), fingerprint)
            for name, dtype, fingerprint, *further in listed
        ]
    except ValidationError as error:
        raise BadPatchesError(
            "The weight patches are refused: the name of a model to merge is malformed."
        ) from error


def read_patches(
    patches: PatchSet, patcher: Any, seconds: Sequence[Any] = (), prefix: str = NETWORK
) -> dict[str, list[Patch]]:
    """Return a patcher's new `patches`; everything that came over the wire is checked against the model.

    Args:
        seconds: patchers of `merged_models`, without patches.
        prefix: with what the keys of weights begin that may be patched.

    Raises:
        BadPatchesError: it is malformed, or does not fit the model.
    """
    try:
        return build_patches(patches, _shapes(patcher), [_weights(second, prefix) for second in seconds], prefix)
    except NotDataError as error:
        raise BadPatchesError(f"The weight patches are refused: {error}.") from error


def build_patches(
    patches: PatchSet, shapes: Mapping[str, Shape], seconds: Sequence[Weights] = (), prefix: str = NETWORK
) -> dict[str, list[Patch]]:
    """Return what `read_patches` does, for models of these shapes and weights.

    Raises:
        NotDataError: they are malformed, or do not fit.
        BadPatchesError: this ComfyUI does not know such patches.
    """
    if not isinstance(patches.template, dict):
        raise NotDataError("a patch set is a dict")
    reader = _Reader(patches, seconds)
    made: dict[str, list[Patch]] = {}
    for key, listed in patches.template.items():
        if key == MODELS:
            continue
        if not isinstance(key, str):
            raise NotDataError("a patch set has keys of a model, and a list for each")
        made[key], _ = reader.patches(key, listed, shape_of(key, shapes, prefix))
    return made


class _Reader:
    """A reader of a template's entries, which are checked."""

    def __init__(self, patches: PatchSet, seconds: Sequence[Weights]) -> None:
        self._set = patches
        self._seconds = seconds

    def patches(self, key: str, listed: Any, shape: Shape, depth: int = 0) -> tuple[list[Patch], Shape]:
        """Return the patches of the entries for a weight of that shape, and its shape after them.

        Raises:
            NotDataError: an entry is malformed, or does not fit.
        """
        if not isinstance(listed, list):
            raise NotDataError("a patch set has keys of a model, and a list for each")
        made: list[Patch] = []
        for entry in listed:
            strengths, kind, values, offset, function = self._entry(entry)
            if kind == MERGE:
                part_of(shape, offset)
                value: Any = self._merge(key, values, depth)
            else:
                values = [_tensor(each, self._set.tensors) if isinstance(each, bytes) else each for each in values]
                check_values(kind, values)
                check_strength(kind, values, strengths[0])
                shape = fitted(kind, values, offset, shape)
                value = _value(kind, values)
            made.append((strengths[0], value, strengths[1], offset, _function(function)))
        return made, shape

    def _entry(self, entry: Any) -> tuple[tuple[float, float], str, list[Any], Offset | None, str | None]:
        if not isinstance(entry, list) or len(entry) != 5:
            raise NotDataError("a malformed patch")
        position, kind, values, offset, function = entry
        if type(position) is not int or not 0 <= position < len(self._set.strengths):
            raise NotDataError("a patch without a strength")
        if not isinstance(kind, str) or kind not in (*FORMS, MERGE) or not isinstance(values, list):
            raise NotDataError(f"weight patches of the kind {kind!r:.80}, which is not known here")
        if function is not None and function not in FUNCTIONS:
            raise NotDataError("weight patches with a function that is not known here")
        return self._set.strengths[position], kind, values, offset_of(offset), function

    def _merge(self, key: str, values: list[Any], depth: int) -> list[Any]:
        refuse_too_deep(depth)
        if len(values) != 3 or not isinstance(values[1], str | None):
            raise NotDataError("a malformed model merge")
        number, other, listed = values
        if type(number) is not int or not 0 <= number < len(self._seconds):
            raise NotDataError("a merge with a model that is not listed")
        found = self._seconds[number].get(key if other is None else other)
        if found is None:
            raise NotDataError("a merge with a weight that the second model does not have")
        # Of another shape ComfyUI itself adds nothing.
        nested, _ = self.patches(key if other is None else other, listed, tuple(found[0].shape), depth + 1)
        return [found, *nested]


def _is_model(entry: Any) -> bool:
    if not isinstance(entry, list) or len(entry) not in {3, 4}:
        return False
    further = entry[3] if len(entry) == 4 else {}
    return all(isinstance(part, str) for part in entry[:3]) and (
        isinstance(further, dict) and set(further) <= {"files", "options"}
    )


def _shapes(patcher: Any) -> dict[str, Shape]:
    """Return the shapes of weights in the file, which patches may have made larger since (Flux control LoRAs)."""
    shapes = {key: tuple(tensor.shape) for key, tensor in patcher.model.state_dict().items()}
    return shapes | {key: tuple(kept.weight.shape) for key, kept in patcher.backup.items() if key in shapes}


def _weights(patcher: Any, prefix: str) -> Weights:
    """Return weights as ComfyUI's own merges take them: as in the file, whatever is patched now."""
    try:
        return {key: listed[0] for key, listed in patcher.get_key_patches(prefix).items()}
    except AttributeError as error:
        raise BadPatchesError(
            "This worker's ComfyUI cannot merge this model, whose weights are quantised: choose another file."
        ) from error


def _tensor(name: bytes, tensors: Mapping[bytes, torch.Tensor]) -> torch.Tensor:
    found = tensors.get(name) if len(name) == DIGEST_BYTES else None
    if found is None:
        raise NotDataError("weight patches with a tensor that was not uploaded")
    return found


def _value(kind: str, values: list[Any]) -> Any:
    if kind == "pad":
        # At strength 0 ComfyUI asks for its shape alone.
        return ("diff", (torch.zeros(()).expand(values[0]), {"pad_weight": True}))
    if kind == "diff":
        return ("diff", (values[0], {"pad_weight": True}) if values[1] else (values[0],))
    if kind in TUPLES:
        return (kind, (values[0],))
    adapter = getattr(importlib.import_module("comfy.weight_adapter"), kind, None)
    if adapter is None:
        raise BadPatchesError(f"This worker's ComfyUI knows no {kind}: update it.")
    return adapter(set(), tuple(values))


def _function(name: str | None) -> Any:
    return None if name is None else getattr(importlib.import_module("comfy.utils"), name)
