"""A check of weight patches against the shapes of the weights that they are for; nothing is computed.

ComfyUI itself skips a patch that does not fit, with a line in its log.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

_DORA: Mapping[str, int] = {
    "LoRAAdapter": 4,
    "LoHaAdapter": 7,
    "LoKrAdapter": 8,
    "GLoRAAdapter": 5,
    "OFTAdapter": 3,
    "BOFTAdapter": 3,
}

Shape = tuple[int, ...]
Offset = tuple[int, int, int]


class NotDataError(Exception):
    """A patch that cannot be written as data, or does not fit its weight; the message says what it is.

    Attributes:
        nodes: the nodes that usually put it there, where it is not just any LoRA loader.
        remedy: what to do, likewise.
    """

    def __init__(self, what: str, nodes: str = "", remedy: str = "") -> None:
        super().__init__(what)
        self.nodes = nodes
        self.remedy = remedy


class MisfitError(NotDataError):
    """A patch that does not fit its weight."""


def part_of(shape: Shape, offset: Offset | None) -> Shape:
    """Return the shape of the part of a weight that a patch with this offset is for.

    Raises:
        NotDataError: there is no such part.
    """
    if offset is None:
        return shape
    dimension, start, length = offset
    if dimension >= len(shape) or start + length > shape[dimension]:
        raise NotDataError("weight patches with an offset outside their weight")
    return (*shape[:dimension], length, *shape[dimension + 1 :])


def fitted(kind: str, values: list[Any], offset: Offset | None, shape: Shape) -> Shape:
    """Return the weight's shape after this patch.

    Args:
        kind, values: see `wire.patch_form`; checked already.

    Raises:
        NotDataError: it does not fit.
    """
    result = _grown(kind, values, part_of(shape, offset))
    dora = values[_DORA[kind]] if kind in _DORA else None
    if not _fits(kind, values, result) or (dora is not None and not _spreads(dora, result)):
        raise MisfitError(
            f"weight patches of the kind {kind} that do not fit this model's weights (a LoRA for another one?)"
        )
    return result if offset is None else shape


def _grown(kind: str, values: list[Any], shape: Shape) -> Shape:
    """Return the shape that the patch needs: a LoRA or diff patch of a larger one pads the weight with zeros."""
    wanted = shape
    if kind == "LoRAAdapter" and values[5] is not None:
        wanted = tuple(values[5])
    elif kind == "diff" and values[1]:
        wanted = tuple(values[0].shape)
    elif kind == "pad":
        wanted = tuple(values[0])
    larger = len(wanted) == len(shape) and all(map(int.__ge__, wanted, shape))
    # No real patch makes a weight a hundred times larger.
    return wanted if larger and math.prod(wanted) <= 100 * math.prod(shape) else shape


def _spreads(tensor: torch.Tensor, shape: Shape) -> bool:
    """Return whether torch broadcasts the tensor to that shape."""
    sizes = zip(reversed(tensor.shape), reversed(shape), strict=False)
    return tensor.dim() <= len(shape) and all(size in {1, whole} for size, whole in sizes)


def _fits(kind: str, values: list[Any], shape: Shape) -> bool:
    return _FITS[kind](values, shape)


def _product(left: torch.Tensor, right: torch.Tensor) -> int | None:
    """Return the number of values in a product of the two, each flattened to a matrix; None where there is none."""
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
    """Return the shape of ``einsum("i j k l, j r, i p -> p r k l")``."""
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
    # ComfyUI fails on one without alpha, and skips it.
    if values[2] is None or not square or not shape or blocks.shape[1] * blocks.shape[2] != shape[0]:
        return False
    return rescale is None or _spreads(rescale, shape)


_FITS: Mapping[str, Callable[[list[Any], Shape], bool]] = {
    "LoRAAdapter": _lora,
    "LoHaAdapter": _loha,
    "LoKrAdapter": _lokr,
    "GLoRAAdapter": _glora,
    "OFTAdapter": _oft,
    "BOFTAdapter": _boft,
    "diff": lambda values, shape: values[0] is None or tuple(values[0].shape) == shape,
    "pad": lambda values, shape: tuple(values[0]) == shape,
    "model_as_lora": lambda values, shape: tuple(values[0].shape) == shape,
    "set": lambda values, shape: _spreads(values[0], shape),
}
