"""A ComfyUI patcher's weight patches as plain data and back, at either end of the wire.

A template is a dict: for each key of the model that is changed, a list of patches, each
``[strength, kind, values, offset, function]``: the position of a pair of strengths; one of `_FORMS`, or `_MERGE`;
the values of that kind, with tensors as their digests; ``[dimension, start, length]`` or None; one of `_FUNCTIONS`
or None.

The values of a merge are ``[model, key, patches]``: the position of a second model among those under `_MODELS`,
each ``[name, weight_dtype, fingerprint]``; the key of its weight, None for the same; and the patches that are on
that weight before it is merged, in the same form.
"""

from __future__ import annotations

import importlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from pydantic import ValidationError

from ...io.digests import DIGEST_BYTES
from ...protocol.messages import ModelRef
from .base import BadPatchesError, PatchSet
from .comfyui_patch_shapes import NotDataError, Offset, Shape, fitted, part_of

__all__ = ["ModelWeight", "NotDataError", "PatchData", "Shape", "build", "merged_models", "refused", "to_data"]

# Of each kind its values: T a tensor, t a tensor or None, n a number or None, s a shape or None, b a bool.
# `diff` and `set` are tuples in ComfyUI, the others classes of comfy.weight_adapter, by these names alone.
_FORMS: Mapping[str, str] = {
    "LoRAAdapter": "TTntts",
    "LoHaAdapter": "TTnTTttt",
    "LoKrAdapter": "ttntttttt",
    "GLoRAAdapter": "TTTTnt",
    "OFTAdapter": "Ttnt",
    "BOFTAdapter": "Ttnt",
    "diff": "Tb",
    "set": "T",
}
# In ComfyUI a list: another model's weight with a function that converts it, and the patches on it.
_MERGE = "model"
# Beside the keys of weights, which all begin with `_NETWORK`.
_MODELS = "models"
_MAX_MODELS = 16
# Merges of merges.
_MAX_MERGES = 8
# Of comfy.utils: what its key maps give with a key.
_FUNCTIONS = ("swap_scale_shift",)
_NETWORK = "diffusion_model."
_MAX_RANK = 8

# Of a model that is merged into another: by key its weight, and what converts it.
Weights = Mapping[str, tuple[torch.Tensor, Callable[..., Any]]]
# A patch as ComfyUI has it.
Patch = tuple[Any, ...]


@dataclass(frozen=True)
class ModelWeight:
    """What stands for a weight of a second model in a merge.

    Attributes:
        model: its name, weight dtype and fingerprint.
        key, shape: the weight's there.
    """

    model: tuple[str, str, str]
    key: str
    shape: Shape


@dataclass
class PatchData:
    """Patches as data: see `client.weight_patches`.

    Attributes:
        unlike: how many merges are with a weight of another shape, which ComfyUI does not add.
    """

    template: dict[str, Any] = field(default_factory=dict)
    strengths: list[tuple[float, float]] = field(default_factory=list)
    tensors: dict[bytes, torch.Tensor] = field(default_factory=dict)
    unlike: int = 0


# Finds what the first element of a merge stands for; raises NotDataError where it can be no part of one.
WeightOf = Callable[[Any], ModelWeight]
Digest = Callable[[torch.Tensor], bytes]


def to_data(
    patches: Mapping[str, Sequence[Any]], shapes: Mapping[str, Shape], digest: Digest, weight_of: WeightOf
) -> PatchData:
    """`patcher.patches` as data. Call it where `refused` finds nothing.

    Args:
        shapes: of each of the model's keys.
        digest: names a tensor by its content.
        weight_of: see there.
    """
    writer = _Writer(digest, weight_of)
    data = writer.data
    for key, listed in patches.items():
        data.template[key], _ = writer.entries(key, listed, _shape_of(key, shapes))
    if writer.models:
        data.template[_MODELS] = [list(model) for model in writer.models]
    data.strengths = list(writer.positions)
    return data


def refused(
    patches: Mapping[str, Sequence[Any]], shapes: Mapping[str, Shape], weight_of: WeightOf
) -> Iterator[tuple[NotDataError, int]]:
    """Each kind of thing among weight patches that cannot travel, and on how many layers it is."""
    writer = _Writer(lambda _: b"", weight_of)
    found: Counter[str] = Counter()
    first: dict[str, NotDataError] = {}
    for key, listed in patches.items():
        try:
            writer.entries(key, listed, _shape_of(key, shapes))
        except NotDataError as error:
            found[str(error)] += 1
            first.setdefault(str(error), error)
    for what, count in found.items():
        yield first[what], count


def merged_models(patches: PatchSet) -> list[tuple[ModelRef, str]]:
    """The second models that merges in it name, with their fingerprints; what came over the wire is checked.

    Raises:
        BadPatchesError: it is malformed.
    """
    listed = patches.template.get(_MODELS, []) if isinstance(patches.template, dict) else []
    if not isinstance(listed, list) or len(listed) > _MAX_MODELS or not all(map(_is_model, listed)):
        raise BadPatchesError("The weight patches are refused: the list of models to merge is malformed.")
    try:
        return [(ModelRef(name=name, weight_dtype=dtype), fingerprint) for name, dtype, fingerprint in listed]
    except ValidationError as error:
        raise BadPatchesError("The weight patches are refused: the name of a model to merge is none.") from error


def from_data(patches: PatchSet, patcher: Any, seconds: Sequence[Any] = ()) -> dict[str, list[Patch]]:
    """What `patcher.patches` is to be; everything that came over the wire is checked against the model.

    Args:
        seconds: patchers of `merged_models`, without patches.

    Raises:
        BadPatchesError: it is malformed, or does not fit the model.
    """
    shapes = {key: tuple(tensor.shape) for key, tensor in patcher.model.state_dict().items()}
    try:
        return build(patches, shapes, [_weights(second) for second in seconds])
    except NotDataError as error:
        raise BadPatchesError(f"The weight patches are refused: {error}.") from error


def build(
    patches: PatchSet, shapes: Mapping[str, Shape], seconds: Sequence[Weights] = ()
) -> dict[str, list[Patch]]:
    """`from_data` for models of these shapes and weights.

    Raises:
        NotDataError: they are malformed, or do not fit.
        BadPatchesError: this ComfyUI does not know such patches.
    """
    if not isinstance(patches.template, dict):
        raise NotDataError("a patch set is a dict")
    reader = _Reader(patches, seconds)
    made: dict[str, list[Patch]] = {}
    for key, listed in patches.template.items():
        if key == _MODELS:
            continue
        if not isinstance(key, str):
            raise NotDataError("a patch set has keys of a model, and a list for each")
        made[key], _ = reader.patches(key, listed, _shape_of(key, shapes))
    return made


class _Writer:
    """Makes entries of a template; what they share is in `data`, `models` and `positions`."""

    def __init__(self, digest: Digest, weight_of: WeightOf) -> None:
        self.data = PatchData()
        self.models: dict[tuple[str, str, str], int] = {}
        self.positions: dict[tuple[float, float], int] = {}
        self._digest = digest
        self._weight_of = weight_of

    def entries(
        self, key: str, listed: Sequence[Any], shape: Shape, depth: int = 0
    ) -> tuple[list[list[Any]], Shape]:
        """Entries for the patches of a weight of that shape, and its shape after them.

        Raises:
            NotDataError: one cannot travel.
        """
        made: list[list[Any]] = []
        for patch in listed:
            strengths, value, offset, function = _parts(patch)
            if isinstance(value, list):
                kind, values = _MERGE, self._merge(key, value, part_of(shape, offset), depth)
            else:
                kind, values = _kind_of(value)
                _check_values(kind, values)
                shape = fitted(kind, values, offset, shape)
                values = [_named(each, self._digest, self.data.tensors) for each in values]
            position = self.positions.setdefault(strengths, len(self.positions))
            made.append([position, kind, values, None if offset is None else list(offset), function])
        return made, shape

    def _merge(self, key: str, value: list[Any], into: Shape, depth: int) -> list[Any]:
        _bounded(depth)
        if not value or not isinstance(value[0], tuple) or len(value[0]) != 2:
            raise NotDataError("a model merge of a form that is not known")
        weight = self._weight_of(value[0][0])
        number = self.models.setdefault(weight.model, len(self.models))
        if number >= _MAX_MODELS:
            raise NotDataError(f"a merge of over {_MAX_MODELS} models")
        nested, shape = self.entries(weight.key, value[1:], weight.shape, depth + 1)
        self.data.unlike += shape != into
        return [number, None if weight.key == key else weight.key, nested]


class _Reader:
    """Makes patches of a template's entries, which are checked."""

    def __init__(self, patches: PatchSet, seconds: Sequence[Weights]) -> None:
        self._set = patches
        self._seconds = seconds

    def patches(self, key: str, listed: Any, shape: Shape, depth: int = 0) -> tuple[list[Patch], Shape]:
        """`_Writer.entries` taken back."""
        if not isinstance(listed, list):
            raise NotDataError("a patch set has keys of a model, and a list for each")
        made: list[Patch] = []
        for entry in listed:
            strengths, kind, values, offset, function = self._entry(entry)
            if kind == _MERGE:
                part_of(shape, offset)
                value: Any = self._merge(key, values, depth)
            else:
                values = [_tensor(each, self._set.tensors) if isinstance(each, bytes) else each for each in values]
                _check_values(kind, values)
                shape = fitted(kind, values, offset, shape)
                value = _value(kind, values)
            made.append((strengths[0], value, strengths[1], offset, _function(function)))
        return made, shape

    def _entry(self, entry: Any) -> tuple[tuple[float, float], str, list[Any], Offset | None, str | None]:
        if not isinstance(entry, list) or len(entry) != 5:
            raise NotDataError("a patch that is not of its form")
        position, kind, values, offset, function = entry
        if type(position) is not int or not 0 <= position < len(self._set.strengths):
            raise NotDataError("a patch without a strength")
        if not isinstance(kind, str) or kind not in (*_FORMS, _MERGE) or not isinstance(values, list):
            raise NotDataError(f"weight patches of the kind {kind!r:.80}, which is not known here")
        if function is not None and function not in _FUNCTIONS:
            raise NotDataError("weight patches with a function that is not known here")
        return self._set.strengths[position], kind, values, _offset(offset), function

    def _merge(self, key: str, values: list[Any], depth: int) -> list[Any]:
        _bounded(depth)
        if len(values) != 3 or not isinstance(values[1], str | None):
            raise NotDataError("a model merge that is not of its form")
        number, other, listed = values
        if type(number) is not int or not 0 <= number < len(self._seconds):
            raise NotDataError("a merge with a model that is not listed")
        found = self._seconds[number].get(key if other is None else other)
        if found is None:
            raise NotDataError("a merge with a weight that the second model does not have")
        # ComfyUI itself adds only what has the weight's shape.
        nested, _ = self.patches(key if other is None else other, listed, tuple(found[0].shape), depth + 1)
        return [found, *nested]


def _bounded(depth: int) -> None:
    if depth >= _MAX_MERGES:
        raise NotDataError(
            f"a merge of merges over {_MAX_MERGES} deep", "ModelMergeSimple and its kin", "Merge fewer models."
        )


def _is_model(entry: Any) -> bool:
    return isinstance(entry, list) and len(entry) == 3 and all(isinstance(part, str) for part in entry)


def _weights(patcher: Any) -> Weights:
    """The weights of a patcher as ComfyUI's own merges take them: as in its file, whatever is patched now."""
    try:
        return {key: listed[0] for key, listed in patcher.get_key_patches(_NETWORK).items()}
    except AttributeError as error:
        raise BadPatchesError(
            "This worker's ComfyUI cannot merge this model: its weights are quantised."
        ) from error


def _shape_of(key: str, shapes: Mapping[str, Shape]) -> Shape:
    if not key.startswith(_NETWORK) or key not in shapes:
        raise NotDataError("weight patches for what is no weight of this model (a LoRA for another one?)")
    return shapes[key]


def _parts(patch: Any) -> tuple[tuple[float, float], Any, Offset | None, str | None]:
    """Strengths, value, offset and function's name of a patch as ComfyUI has it."""
    if not isinstance(patch, tuple) or len(patch) != 5:
        raise NotDataError("weight patches of a form that is not known")
    strength, value, strength_model, offset, function = patch
    return (_number(strength), _number(strength_model)), value, _offset(offset), _function_name(function)


def _number(value: Any) -> float:
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise NotDataError("weight patches whose strength is no number")
    return float(value)


def _kind_of(value: Any) -> tuple[str, list[Any]]:
    kind = type(value)
    if kind.__module__.startswith("comfy.weight_adapter.") and kind.__name__ in _FORMS:
        return kind.__name__, list(value.weights)
    if isinstance(value, tuple) and len(value) == 1:
        return "diff", [value[0], False]
    if isinstance(value, tuple) and len(value) == 2 and value[0] in {"diff", "set"}:
        return _of_tuple(*value)
    named = value[0] if isinstance(value, tuple) and value and isinstance(value[0], str) else kind.__name__
    raise NotDataError(f"weight patches of the kind {named:.80}, which is not known here")


def _of_tuple(kind: str, content: Any) -> tuple[str, list[Any]]:
    if isinstance(content, tuple | list):
        if len(content) == 1:
            return kind, [content[0], False] if kind == "diff" else [content[0]]
        if kind == "diff" and len(content) == 2 and isinstance(content[1], dict):
            return kind, [content[0], bool(content[1].get("pad_weight"))]
    raise NotDataError(f"weight patches of the kind {kind} in a form that is not known")


def _offset(offset: Any) -> tuple[int, int, int] | None:
    if offset is None:
        return None
    whole = isinstance(offset, tuple | list) and len(offset) == 3 and all(type(part) is int for part in offset)
    if not whole or min(offset) < 0:
        raise NotDataError("weight patches with an offset that is no place in a weight")
    return offset[0], offset[1], offset[2]


def _function_name(function: Any) -> str | None:
    if function is None:
        return None
    name = getattr(function, "__name__", "")
    if name in _FUNCTIONS and getattr(function, "__module__", "") == "comfy.utils":
        return str(name)
    raise NotDataError("weight patches with a function that is not ComfyUI's own")


def _check_values(kind: str, values: list[Any]) -> None:
    form = _FORMS[kind]
    if len(values) != len(form) or not all(map(_is_of, form, values)):
        raise NotDataError(f"weight patches of the kind {kind} whose values are not of their form")


def _is_of(form: str, value: Any) -> bool:
    if value is None:
        return form not in "Tb"
    if form in "Tt":
        return type(value) in {torch.Tensor, torch.nn.Parameter} and _is_weight(value)
    if form == "n":
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if form == "b":
        return isinstance(value, bool)
    return isinstance(value, list | tuple) and all(type(size) is int and 0 < size < 2**31 for size in value)


def _is_weight(tensor: torch.Tensor) -> bool:
    dense = tensor.layout is torch.strided and tensor.device.type != "meta"
    return dense and tensor.is_floating_point() and tensor.dim() <= _MAX_RANK


def _named(value: Any, digest: Callable[[torch.Tensor], bytes], tensors: dict[bytes, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        name = digest(value)
        tensors.setdefault(name, value)
        return name
    if isinstance(value, list | tuple):
        return list(value)
    return value


def _tensor(name: bytes, tensors: Mapping[bytes, torch.Tensor]) -> torch.Tensor:
    found = tensors.get(name) if len(name) == DIGEST_BYTES else None
    if found is None:
        raise NotDataError("weight patches with a tensor that was not uploaded")
    return found


def _value(kind: str, values: list[Any]) -> Any:
    if kind == "diff":
        return ("diff", (values[0], {"pad_weight": True}) if values[1] else (values[0],))
    if kind == "set":
        return ("set", (values[0],))
    adapter = getattr(importlib.import_module("comfy.weight_adapter"), kind, None)
    if adapter is None:
        raise BadPatchesError(f"This worker's ComfyUI knows no {kind}: update it.")
    return adapter(set(), tuple(values))


def _function(name: str | None) -> Any:
    return None if name is None else getattr(importlib.import_module("comfy.utils"), name)
