"""The parts that lossy codecs share: which tensors they take, scales, and bounds on the error of a value."""

from __future__ import annotations

import math
from typing import Final, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import CodecError
from ..buffers import tensor_from
from ..dtypes import DTYPES

SEGMENT: Final = 2**18
"""The elements coded at a time: bounds what decoding allocates besides the tensor."""

Scales = NDArray[np.uint16]
"""Scales in bfloat16, the upper half of float32: any 8-bit code times such a scale is exact in float32."""

_DTYPES = ("F32", "F16", "BF16")
# Tensors of lower rank and smaller ones are timesteps, guidance, lengths, ids: little to save, and much to spoil.
_LEAST_RANK = 3
_FEWEST = 1024
_INFINITY = 0x7F80


def is_taken(dtype: str, shape: tuple[int, ...]) -> bool:
    """Return whether a lossy codec takes such a tensor: 16- or 32-bit floats, rank 3, 1024 elements, or more."""
    return dtype in _DTYPES and len(shape) >= _LEAST_RANK and math.prod(shape) >= _FEWEST


def segments(count: int) -> list[tuple[int, int]]:
    """Return the begin and end of each segment of `count` elements."""
    return [(start, min(start + SEGMENT, count)) for start in range(0, count, SEGMENT)]


def flat(data: memoryview, dtype: str) -> Tensor:
    """Return the elements as a flat tensor that shares the memory of `data`."""
    return tensor_from(data, DTYPES[dtype], (len(data) // DTYPES[dtype].itemsize,))


def scales_for(peaks: Tensor, levels: float) -> Scales | None:
    """Return the scales `[N]` that put values of up to `peaks` `[N]` on `levels` levels to either side of zero.

    They are rounded up, so that no peak is cut off. None if a peak is infinite or NaN.
    """
    peaks = peaks.detach().float()
    if not torch.isfinite(peaks).all():
        return None
    wide = (peaks / levels).numpy().view(np.uint32)
    rounded = ((wide + 0xFFFF) >> 16).astype(np.uint16)
    # The quotient of a tiny peak is zero in float32.
    return np.where((rounded == 0) & (peaks.numpy() > 0), np.uint16(1), rounded)


def factors(scales: Scales) -> Tensor:
    """Return the scales as float32 `[N]`."""
    wide = scales.astype(np.uint32)
    np.left_shift(wide, 16, out=wide)
    return torch.from_numpy(wide.view(np.float32))


def divisors(scales: Scales) -> Tensor:
    """Return the scales as float32 `[N]`, with 1 in place of 0: a block of zeros can be divided by any number."""
    return factors(np.where(scales == 0, np.uint16(0x3F80), scales))


def check_scales(scales: Scales) -> None:
    """Refuse scales that no sender makes.

    Raises:
        CodecError: a scale is negative, infinite or NaN.
    """
    if (scales >= _INFINITY).any():
        raise CodecError("a scale is not a finite number")


def restore(values: Tensor, out: Tensor) -> None:
    """Write float32 `values`, which are overwritten, to `out` in its dtype."""
    # Scales are rounded up, so the largest value may have come to lie beyond what the dtype holds.
    limit = torch.finfo(out.dtype).max
    out.copy_(values.clamp_(-limit, limit))


def with_rounding(step: Tensor, values: Tensor) -> Tensor:
    """Return bounds `step`, float64, plus the error of rounding the result to the dtype of `values`."""
    info = torch.finfo(values.dtype)
    # Half a unit in the last place. Below the smallest normal number the unit stays the same.
    return step + ((values.double().abs() + step) + info.smallest_normal) * (info.eps / 2)


def check_taken(name: str, dtype: str, shape: tuple[int, ...]) -> None:
    """Refuse tensors that no sender stores lossily.

    Raises:
        CodecError: `is_taken` is False for it.
    """
    if not is_taken(dtype, shape):
        raise CodecError(f"{name} does not store a {dtype} tensor of shape {shape!r:.80}")


def refuse_block(block: object) -> NoReturn:
    """Raise the error for an invalid block size."""
    raise ValueError(f"a block must be a power of two from 8 to 4096, not {block!r:.40}")
