"""A ComfyUI patcher's weight patches as plain data and back, at either end of the wire.

A template is a dict: for each key of the model that is changed, a list of patches, each
``[strength, kind, values, offset, function]``: the position of a pair of strengths, one of `_FORMS`, the values of
that kind with tensors as their digests, ``[dimension, start, length]`` or None, one of `_FUNCTIONS` or None.
"""

from __future__ import annotations

import importlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ...io.digests import DIGEST_BYTES
from .base import BadPatchesError, PatchSet

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
_DORA: Mapping[str, int] = {
    "LoRAAdapter": 4,
    "LoHaAdapter": 7,
    "LoKrAdapter": 8,
    "GLoRAAdapter": 5,
    "OFTAdapter": 3,
    "BOFTAdapter": 3,
}
# Of comfy.utils: what its key maps give with a key.
_FUNCTIONS = ("swap_scale_shift",)
_NETWORK = "diffusion_model."
_MAX_RANK = 8

Shape = tuple[int, ...]


class NotDataError(Exception):
    """A patch that cannot be told as data, or does not fit its weight; the message says what it is."""


@dataclass
class PatchData:
    """Patches as data: see `client.weight_patches`."""

    template: dict[str, list[list[Any]]] = field(default_factory=dict)
    strengths: list[tuple[float, float]] = field(default_factory=list)
    tensors: dict[bytes, torch.Tensor] = field(default_factory=dict)


def to_data(
    patches: Mapping[str, Sequence[Any]],
    shapes: Mapping[str, Shape],
    digest: Callable[[torch.Tensor], bytes],
) -> PatchData:
    """`patcher.patches` as data. Call it where `refused` finds nothing.

    Args:
        shapes: of each of the model's keys.
        digest: names a tensor by its content.
    """
    data = PatchData()
    positions: dict[tuple[float, float], int] = {}
    for key, listed in patches.items():
        shape = _shape_of(key, shapes)
        entries = data.template[key] = []
        for patch in listed:
            strengths, kind, values, offset, function = _read(patch)
            shape = _fitted(kind, values, offset, shape)
            named = [_named(value, digest, data.tensors) for value in values]
            position = positions.setdefault(strengths, len(positions))
            entries.append([position, kind, named, None if offset is None else list(offset), function])
    data.strengths = list(positions)
    return data


def refused(patches: Mapping[str, Sequence[Any]], shapes: Mapping[str, Shape]) -> Iterator[str]:
    """A line for each kind of thing among weight patches that cannot travel."""
    found: Counter[str] = Counter()
    for key, listed in patches.items():
        try:
            shape = _shape_of(key, shapes)
            for patch in listed:
                _, kind, values, offset, _ = _read(patch)
                shape = _fitted(kind, values, offset, shape)
        except NotDataError as error:
            found[str(error)] += 1
    for what, count in found.items():
        yield f"{what}, on {count} layer{'' if count == 1 else 's'}"


def from_data(patches: PatchSet, patcher: Any) -> dict[str, list[tuple[Any, ...]]]:
    """What `patcher.patches` is to be; everything that came over the wire is checked against the model.

    Raises:
        BadPatchesError: it is malformed, or does not fit the model.
    """
    shapes = {key: tuple(tensor.shape) for key, tensor in patcher.model.state_dict().items()}
    try:
        return build(patches, shapes)
    except NotDataError as error:
        raise BadPatchesError(f"The weight patches are refused: {error}.") from error


def build(patches: PatchSet, shapes: Mapping[str, Shape]) -> dict[str, list[tuple[Any, ...]]]:
    """`from_data` for a model of these shapes.

    Raises:
        NotDataError: they are malformed, or do not fit.
        BadPatchesError: this ComfyUI does not know such patches.
    """
    if not isinstance(patches.template, dict):
        raise NotDataError("a patch set is a dict")
    made: dict[str, list[tuple[Any, ...]]] = {}
    for key, listed in patches.template.items():
        if not isinstance(key, str) or not isinstance(listed, list):
            raise NotDataError("a patch set has keys of a model, and a list for each")
        shape = _shape_of(key, shapes)
        made[key] = []
        for entry in listed:
            strengths, kind, values, offset, function = _unnamed(entry, patches)
            shape = _fitted(kind, values, offset, shape)
            value = _value(kind, values)
            made[key].append((strengths[0], value, strengths[1], offset, _function(function)))
    return made


def _shape_of(key: str, shapes: Mapping[str, Shape]) -> Shape:
    if not key.startswith(_NETWORK) or key not in shapes:
        raise NotDataError("weight patches for what is no weight of this model (a LoRA for another one?)")
    return shapes[key]


def _read(patch: Any) -> tuple[tuple[float, float], str, list[Any], Any, str | None]:
    """A patch as ComfyUI has it, in parts."""
    if not isinstance(patch, tuple) or len(patch) != 5:
        raise NotDataError("weight patches of a form that is not known")
    strength, value, strength_model, offset, function = patch
    strengths = (_number(strength), _number(strength_model))
    kind, values = _kind_of(value)
    _check_values(kind, values)
    return strengths, kind, values, _offset(offset), _function_name(function)


def _number(value: Any) -> float:
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise NotDataError("weight patches whose strength is no number")
    return float(value)


def _kind_of(value: Any) -> tuple[str, list[Any]]:
    kind = type(value)
    if kind.__module__.startswith("comfy.weight_adapter.") and kind.__name__ in _FORMS:
        return kind.__name__, list(value.weights)
    if isinstance(value, list):
        raise NotDataError("a model merge (ModelMergeSimple and its kin), whose second model is here")
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


def _unnamed(entry: Any, patches: PatchSet) -> tuple[tuple[float, float], str, list[Any], Any, str | None]:
    """An entry of a template, in parts; the opposite of `_read`."""
    if not isinstance(entry, list) or len(entry) != 5:
        raise NotDataError("a patch that is not of its form")
    position, kind, named, offset, function = entry
    if type(position) is not int or not 0 <= position < len(patches.strengths):
        raise NotDataError("a patch without a strength")
    if not isinstance(kind, str) or kind not in _FORMS or not isinstance(named, list):
        raise NotDataError(f"weight patches of the kind {kind!r:.80}, which is not known here")
    if function is not None and function not in _FUNCTIONS:
        raise NotDataError("weight patches with a function that is not known here")
    values = [_tensor(value, patches.tensors) if isinstance(value, bytes) else value for value in named]
    _check_values(kind, values)
    return patches.strengths[position], kind, values, _offset(offset), function


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


def _fitted(kind: str, values: list[Any], offset: tuple[int, int, int] | None, shape: Shape) -> Shape:
    """The weight's shape after this patch. ComfyUI itself passes over what does not fit, with a line in its log.

    Raises:
        NotDataError: it does not fit.
    """
    part = shape
    if offset is not None:
        dimension, start, length = offset
        if dimension >= len(shape) or start + length > shape[dimension]:
            raise NotDataError("weight patches with an offset outside their weight")
        part = (*shape[:dimension], length, *shape[dimension + 1 :])
    result = _grown(kind, values, part)
    dora = values[_DORA[kind]] if kind in _DORA else None
    if not _fits(kind, values, result) or (dora is not None and not _spreads(dora, result)):
        raise NotDataError(
            f"weight patches of the kind {kind} that do not fit this model's weights (a LoRA for another one?)"
        )
    return result if offset is None else shape


def _grown(kind: str, values: list[Any], shape: Shape) -> Shape:
    """LoRA and diff patches may be of a larger weight, which is then padded with zeros."""
    wanted = shape
    if kind == "LoRAAdapter" and values[5] is not None:
        wanted = tuple(values[5])
    elif kind == "diff" and values[1]:
        wanted = tuple(values[0].shape)
    larger = len(wanted) == len(shape) and all(map(int.__ge__, wanted, shape))
    # Nothing that is needed grows a weight a hundredfold.
    return wanted if larger and math.prod(wanted) <= 100 * math.prod(shape) else shape


def _spreads(tensor: torch.Tensor, shape: Shape) -> bool:
    """Whether torch broadcasts the tensor to that shape."""
    sizes = zip(reversed(tensor.shape), reversed(shape), strict=False)
    return tensor.dim() <= len(shape) and all(size in {1, whole} for size, whole in sizes)


def _fits(kind: str, values: list[Any], shape: Shape) -> bool:
    return _FITS[kind](values, shape)


def _product(left: torch.Tensor, right: torch.Tensor) -> int | None:
    """How many values a product of the two has, each flattened to a matrix; None where there is none."""
    if left.dim() < 2 or right.dim() < 2 or left[0].numel() != right.shape[0]:
        return None
    return left.shape[0] * right[0].numel()


def _lora(values: list[Any], shape: Shape) -> bool:
    up, down, _, mid, _, grown = values
    if grown is not None and tuple(grown) != shape:
        return False
    if min(up.dim(), down.dim()) < 2 or not min(up.numel(), down.numel()):
        return False
    if mid is None:
        return _product(up, down) == math.prod(shape)
    if mid.dim() != 4 or mid.shape[0] != down.shape[0] or mid.shape[1] != down[:, 0].numel():
        return False
    columns = down.shape[1] * mid.shape[2] * mid.shape[3]
    return bool(up[0].numel() == down.shape[0] and up.shape[0] * columns == math.prod(shape))


def _tucker(core: torch.Tensor, right: torch.Tensor, left: torch.Tensor) -> Shape | None:
    """The shape of ``einsum("i j k l, j r, i p -> p r k l")``."""
    if core.dim() != 4 or right.dim() != 2 or left.dim() != 2:
        return None
    if core.shape[1] != right.shape[0] or core.shape[0] != left.shape[0]:
        return None
    return (left.shape[1], right.shape[1], *core.shape[2:])


def _matrix(left: torch.Tensor, right: torch.Tensor) -> Shape | None:
    if left.dim() != 2 or right.dim() != 2 or left.shape[1] != right.shape[0]:
        return None
    return (left.shape[0], right.shape[1])


def _loha(values: list[Any], shape: Shape) -> bool:
    first, second = (values[0], values[1], values[5]), (values[3], values[4], values[6])
    shapes = [
        _matrix(left, right) if core is None else _tucker(core, right, left)
        for left, right, core in (first, second)
    ]
    if shapes[0] is None or shapes[0] != shapes[1] or (values[5] is None) != (values[6] is None):
        return False
    return math.prod(shapes[0]) == math.prod(shape)


def _lokr(values: list[Any], shape: Shape) -> bool:
    w1, w2, _, w1_a, w1_b, w2_a, w2_b, core, _ = values
    if (w1 is None and (w1_a is None or w1_b is None)) or (w2 is None and (w2_a is None or w2_b is None)):
        return False
    first = tuple(w1.shape) if w1 is not None else _matrix(w1_a, w1_b)
    second = tuple(w2.shape) if w2 is not None else _second(w2_a, w2_b, core)
    if first is None or second is None or len(first) != 2 or len(second) < 2:
        return False
    return math.prod(first) * math.prod(second) == math.prod(shape)


def _second(left: torch.Tensor, right: torch.Tensor, core: torch.Tensor | None) -> Shape | None:
    return _matrix(left, right) if core is None else _tucker(core, right, left)


def _glora(values: list[Any], shape: Shape) -> bool:
    a1, a2, b1, b2, _, _ = values
    if len(shape) < 2 or any(each.dim() < 2 or not each.numel() for each in (a1, a2, b1, b2)):
        return False
    size, columns = math.prod(shape), shape[1]
    new = _product(b1, b2) == size and _product(a1, a2) is not None and a1.shape[0] == columns
    old = _product(b2, b1) == size and _product(a2, a1) is not None and a2.shape[0] == size // shape[0]
    return new or old


def _oft(values: list[Any], shape: Shape) -> bool:
    blocks = values[0]
    square = blocks.dim() == 3 and blocks.shape[1] == blocks.shape[2]
    return bool(square and shape and blocks.shape[0] * blocks.shape[1] == shape[0])


def _boft(values: list[Any], shape: Shape) -> bool:
    blocks, rescale = values[0], values[1]
    square = blocks.dim() == 4 and blocks.shape[2] == blocks.shape[3] and blocks.shape[2] % 2 == 0
    if not square or not shape or blocks.shape[1] * blocks.shape[2] != shape[0]:
        return False
    return rescale is None or _spreads(rescale, shape)


_FITS: Mapping[str, Callable[[list[Any], Shape], bool]] = {
    "LoRAAdapter": _lora,
    "LoHaAdapter": _loha,
    "LoKrAdapter": _lokr,
    "GLoRAAdapter": _glora,
    "OFTAdapter": _oft,
    "BOFTAdapter": _boft,
    "diff": lambda values, shape: tuple(values[0].shape) == shape,
    "set": lambda values, shape: _spreads(values[0], shape),
}
