"""8-bit integers with a scale for each channel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from ..buffers import Buffer, allocate
from . import quantised
from .copies import HEAD_BYTES, copies_in, fill, head, read_head
from .int8_block import from_int8, int8_error, to_int8
from .plane_blocks import PlaneReader, PlaneWriter
from .quantised import Scales


@dataclass(frozen=True)
class Int8Channel:
    """Lossy: each value becomes one of 255 evenly spaced ones, from minus to plus the largest of its channel.

    The channels of images and video, `[B, C, H, W]` and `[B, C, T, H, W]`, are dimension 1, with a scale for each
    batch entry; those of tokens, `[B, T, D]`, are the last dimension, where a few are a hundred times the others.

    A value comes back within scale / 2, where scale is the channel's largest magnitude / 127, rounded up to
    bfloat16; to that comes the rounding to the tensor's dtype. Gaussian latents: 1 % in relative L2.
    """

    name: ClassVar[str] = "int8-channel"
    lossless: ClassVar[bool] = False
    typical_share: ClassVar[float] = 0.5

    def encode(self, data: memoryview, dtype: str, shape: tuple[int, ...]) -> Buffer | None:
        if not quantised.is_taken(dtype, shape) or not _pays(len(data), shape):
            return None
        count = copies_in(data, shape)
        shape = (shape[0] // count, *shape[1:])
        elements = quantised.flat(data[: len(data) // count], dtype)
        scales = quantised.scales_for(_peaks(elements.view(shape)), 127)
        if scales is None:
            return None
        writer = PlaneWriter()
        for begin, end in quantised.segments(len(elements)):
            divisors = quantised.divisors(_spread(scales, shape, begin, end))
            writer.add(to_int8(elements[begin:end].float() / divisors), rotate=False)
        return b"".join([head(count), scales.astype("<u2").tobytes(), *writer.pieces])

    def decode(self, payload: memoryview, size_bytes: int, dtype: str, shape: tuple[int, ...]) -> memoryview:
        quantised.check_taken(self.name, dtype, shape)
        count, shape = read_head(payload, size_bytes, shape)
        reader = PlaneReader(payload, HEAD_BYTES)
        scales = np.frombuffer(reader.take(2 * _channels(shape)), "<u2")
        quantised.check_scales(scales)
        out = allocate(size_bytes)
        elements = quantised.flat(out[: size_bytes // count], dtype)
        for begin, end in quantised.segments(len(elements)):
            codes = np.empty(end - begin, np.uint8)
            reader.read_into(codes, rotate=False)
            values = from_int8(codes) * quantised.factors(_spread(scales, shape, begin, end))
            quantised.restore(values, elements[begin:end])
        reader.finish()
        fill(out, count)
        return out

    def max_error(self, values: Tensor) -> Tensor:
        """How far each of the finite `values` may come back from itself, float64, of their shape."""
        shape = tuple(values.shape)
        scales = quantised.scales_for(_peaks(values), 127)
        if scales is None:
            raise ValueError("infinities and what is no number go losslessly")
        factors = quantised.factors(_spread(scales, shape, 0, values.numel())).double().view(shape)
        return quantised.with_rounding(int8_error(values.double(), factors), values)


def _channels(shape: tuple[int, ...]) -> int:
    return shape[-1] if len(shape) == 3 else shape[0] * shape[1]


def _pays(size_bytes: int, shape: tuple[int, ...]) -> bool:
    return 2 * _channels(shape) + math.prod(shape) < 0.9 * size_bytes


def _peaks(tensor: Tensor) -> Tensor:
    magnitudes = tensor.abs()
    return magnitudes.amax((0, 1)) if tensor.dim() == 3 else magnitudes.flatten(2).amax(2).view(-1)


def _spread(scales: Scales, shape: tuple[int, ...], begin: int, end: int) -> Scales:
    """The scale of each of the elements from `begin` to `end`."""
    if len(shape) == 3:
        return _cycle(scales, begin, end)
    size = math.prod(shape[2:])
    first, last = begin // size, (end - 1) // size
    bounds = np.clip(np.arange(first, last + 2) * size, begin, end)
    return np.repeat(scales[first : last + 1], np.diff(bounds))


def _cycle(scales: Scales, begin: int, end: int) -> Scales:
    if len(scales) > quantised.SEGMENT:
        return scales[np.arange(begin, end) % len(scales)]
    offset = begin % len(scales)
    return np.tile(scales, -(-(offset + end - begin) // len(scales)))[offset : offset + end - begin]
