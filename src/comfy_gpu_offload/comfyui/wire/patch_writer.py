"""The client's writer of weight patches, which finds those that cannot be sent; `wire.patch_form` is their form."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ...protocol.messages import ModelRef
from .patch_form import (
    FORMS,
    FUNCTIONS,
    MAX_MODELS,
    MERGE,
    MODELS,
    NETWORK,
    NOTHING,
    TUPLES,
    check_strength,
    check_values,
    offset_of,
    refuse_too_deep,
    shape_of,
)
from .patch_shapes import MisfitError, NotDataError, Offset, Shape, fitted, part_of


@dataclass(frozen=True)
class ModelWeight:
    """A reference to the weight of a second model in a merge.

    Attributes:
        model, fingerprint: the model's.
        key, shape: the weight's there.
    """

    model: ModelRef
    fingerprint: str
    key: str
    shape: Shape


@dataclass(frozen=True)
class LeftOut:
    """A patch that does not fit its weight, and that ComfyUI skips.

    Attributes:
        key: the weight's, in the model that has it: a second one's, in a merge.
        value: the patch's, as ComfyUI has it.
        error: what is wrong with it.
    """

    key: str
    value: Any
    error: MisfitError


@dataclass
class PatchData:
    """Patches in their wire form: see `client.weight_patches`.

    Attributes:
        unlike: the number of merges with a weight of another shape, which ComfyUI does not add.
        left_out: patches in whose place there is one that adds nothing.
        grown: by key the shapes of weights that the patches make larger.
    """

    template: dict[str, Any] = field(default_factory=dict)
    strengths: list[tuple[float, float]] = field(default_factory=list)
    tensors: dict[bytes, torch.Tensor] = field(default_factory=dict)
    unlike: int = 0
    left_out: list[LeftOut] = field(default_factory=list)
    grown: dict[str, Shape] = field(default_factory=dict)


@dataclass
class Examined:
    """The findings among weight patches.

    Attributes:
        refused: each kind of patch that cannot be sent, and the number of layers that it is on.
        left_out: as in `PatchData`.
    """

    refused: list[tuple[NotDataError, int]]
    left_out: list[LeftOut]


# Gives the weight that the first element of a merge stands for; raises NotDataError where it can be no part of one.
WeightOf = Callable[[Any], ModelWeight]
Digest = Callable[[torch.Tensor], bytes]
# Called with a weight's key, a patch that does not fit it, and the shape of the part that the patch is for. Returns
# the shape in which ComfyUI leaves that part when it skips the patch, or None where it does not skip it.
ShapeIfSkipped = Callable[[str, Any, Shape], Shape | None]


def nothing_is_skipped(*_: Any) -> Shape | None:
    """Serve as a `ShapeIfSkipped` where ComfyUI is not asked."""
    return None


def write_patches(
    patches: Mapping[str, Sequence[Any]],
    shapes: Mapping[str, Shape],
    digest: Digest,
    weight_of: WeightOf,
    shape_if_skipped: ShapeIfSkipped = nothing_is_skipped,
    *,
    prefix: str = NETWORK,
) -> PatchData:
    """Return `patcher.patches` as data. Call it where `examine_patches` finds nothing to refuse.

    Args:
        shapes: of each of the model's keys.
        digest: names a tensor by its content.
        weight_of, shape_if_skipped: see there.
        prefix: with what the keys of weights begin that may be patched.
    """
    writer = _Writer(digest, weight_of, shape_if_skipped)
    data = writer.data
    for key, listed in patches.items():
        was = shape_of(key, shapes, prefix)
        data.template[key], shape = writer.entries(key, listed, was)
        if shape != was:
            data.grown[key] = shape
    if writer.models:
        data.template[MODELS] = [_model_entry(*model) for model in writer.models]
    data.strengths = list(writer.positions)
    return data


def examine_patches(
    patches: Mapping[str, Sequence[Any]],
    shapes: Mapping[str, Shape],
    weight_of: WeightOf,
    shape_if_skipped: ShapeIfSkipped = nothing_is_skipped,
    *,
    prefix: str = NETWORK,
) -> Examined:
    """Return what among weight patches cannot be sent, and what ComfyUI passes over; see `write_patches`."""
    writer = _Writer(lambda _: b"", weight_of, shape_if_skipped)
    found: Counter[str] = Counter()
    first: dict[str, NotDataError] = {}
    for key, listed in patches.items():
        try:
            writer.entries(key, listed, shape_of(key, shapes, prefix))
        except NotDataError as error:
            found[str(error)] += 1
            first.setdefault(str(error), error)
    return Examined([(first[what], count) for what, count in found.items()], writer.data.left_out)


class _Writer:
    """A writer of a template's entries, which share `data`, `models` and `positions`."""

    def __init__(self, digest: Digest, weight_of: WeightOf, shape_if_skipped: ShapeIfSkipped) -> None:
        self.data = PatchData()
        self.models: dict[tuple[ModelRef, str], int] = {}
        self.positions: dict[tuple[float, float], int] = {}
        self._digest = digest
        self._weight_of = weight_of
        self._shape_if_skipped = shape_if_skipped

    def entries(
        self, key: str, listed: Sequence[Any], shape: Shape, depth: int = 0
    ) -> tuple[list[list[Any]], Shape]:
        """Return entries for the patches of a weight of that shape, and its shape after them.

        Raises:
            NotDataError: one cannot be sent.
        """
        made: list[list[Any]] = []
        for patch in listed:
            strengths, value, offset, function = _parts(patch)
            if isinstance(value, list):
                kind, values = MERGE, self._merge(key, value, part_of(shape, offset), depth)
            else:
                kind, values = _kind_of(value)
                check_values(kind, values)
                check_strength(kind, values, strengths[0])
                try:
                    shape = fitted(kind, values, offset, shape)
                except MisfitError as error:
                    kind, values = self._in_place_of(key, patch, part_of(shape, offset), error)
                    strengths, function = (0.0, strengths[1]), None
                    shape = fitted(kind, values, offset, shape)
                values = [_named(each, self._digest, self.data.tensors) for each in values]
            position = self.positions.setdefault(strengths, len(self.positions))
            made.append([position, kind, values, None if offset is None else list(offset), function])
        return made, shape

    def _in_place_of(self, key: str, patch: Any, part: Shape, error: MisfitError) -> tuple[str, list[Any]]:
        """Return what does to a weight what ComfyUI does before it passes over a patch."""
        left = self._shape_if_skipped(key, patch, part)
        if left is None:
            raise error
        self.data.left_out.append(LeftOut(key, patch[1], error))
        # ComfyUI does not put a part of a weight back that it made larger.
        return NOTHING if left == part or patch[3] is not None else ("pad", [left])

    def _merge(self, key: str, value: list[Any], into: Shape, depth: int) -> list[Any]:
        refuse_too_deep(depth)
        if not value or not isinstance(value[0], tuple) or len(value[0]) != 2:
            raise NotDataError("a model merge of a form that is not known")
        weight = self._weight_of(value[0][0])
        number = self.models.setdefault((weight.model, weight.fingerprint), len(self.models))
        if number >= MAX_MODELS:
            raise NotDataError(f"a merge of over {MAX_MODELS} models")
        nested, shape = self.entries(weight.key, value[1:], weight.shape, depth + 1)
        self.data.unlike += shape != into
        return [number, None if weight.key == key else weight.key, nested]


def _model_entry(model: ModelRef, fingerprint: str) -> list[Any]:
    entry: list[Any] = [model.name, model.weight_dtype, fingerprint]
    if model.has_later_fields:
        entry.append({"files": list(model.files), "options": [list(option) for option in model.options]})
    return entry


def _parts(patch: Any) -> tuple[tuple[float, float], Any, Offset | None, str | None]:
    """Return strengths, value, offset and function's name of a patch as ComfyUI has it."""
    if not isinstance(patch, tuple) or len(patch) != 5:
        raise NotDataError("weight patches of a form that is not known")
    strength, value, strength_model, offset, function = patch
    return (_number(strength), _number(strength_model)), value, offset_of(offset), _function_name(function)


def _number(value: Any) -> float:
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise NotDataError("weight patches whose strength is no number")
    return float(value)


def _kind_of(value: Any) -> tuple[str, list[Any]]:
    kind = type(value)
    if kind.__module__.startswith("comfy.weight_adapter.") and kind.__name__ in FORMS:
        return kind.__name__, list(value.weights)
    if isinstance(value, tuple) and len(value) == 1:
        return "diff", [value[0], False]
    if isinstance(value, tuple) and len(value) == 2 and value[0] in TUPLES:
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


def _function_name(function: Any) -> str | None:
    if function is None:
        return None
    name = getattr(function, "__name__", "")
    if name in FUNCTIONS and getattr(function, "__module__", "") == "comfy.utils":
        return str(name)
    raise NotDataError("weight patches with a function that is not ComfyUI's own")


def _named(value: Any, digest: Callable[[torch.Tensor], bytes], tensors: dict[bytes, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        name = digest(value)
        tensors.setdefault(name, value)
        return name
    if isinstance(value, list | tuple):
        return list(value)
    return value
