"""Tensors that are a few copies of one, of which one is stored: a batch of two, say, that differs in conditioning.

Every payload but those of raw and zstd begins with the layout's version and the number of copies.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from ...errors import CodecError
from .zstd_ratio import MAX_RATIO as ZSTD_MAX_RATIO

HEAD_BYTES: Final = 2

_VERSION = 1
_MOST = 8
_GLANCE_BYTES = 64
# Copies of float32 whose codes are halves of bytes that zstd could not shrink further.
_MAX_RATIO = _MOST * 8 * ZSTD_MAX_RATIO


def copies_in(data: memoryview, shape: tuple[int, ...]) -> int:
    """Of how many equal parts along the first dimension the tensor consists: 1 to 8."""
    if not shape or not data:
        return 1
    every = np.frombuffer(data, np.uint8)
    for count in range(min(shape[0], _MOST), 1, -1):
        part = len(data) // count
        # Nearly always the first few bytes tell.
        glance_equal = data[:_GLANCE_BYTES] == data[part : part + _GLANCE_BYTES]
        if shape[0] % count == 0 and glance_equal and np.array_equal(every[part:], every[:-part]):
            return count
    return 1


def head(count: int) -> bytes:
    """How a payload begins whose tensor is `count` copies of what is coded."""
    return bytes([_VERSION, count])


def read_head(payload: memoryview, size_bytes: int, shape: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    """How many copies of what is coded the tensor of that size and shape is, and the shape of one.

    Raises:
        CodecError: the payload is of another version or too short by far, or such a tensor does not consist of so
            many copies.
    """
    if size_bytes > len(payload) * _MAX_RATIO:
        raise CodecError(f"{len(payload)} bytes cannot decode to {size_bytes}")
    if len(payload) < HEAD_BYTES or payload[0] != _VERSION:
        raise CodecError(f"the payload is not of version {_VERSION}")
    count = payload[1]
    if not 1 <= count <= _MOST or (count > 1 and (not shape or shape[0] % count)):
        raise CodecError(f"a tensor of shape {shape!r:.80} does not consist of {count} copies")
    return count, (shape[0] // count, *shape[1:]) if count > 1 else shape


def fill(out: memoryview, count: int) -> None:
    """Copies the first of the `count` parts of `out` to the others."""
    part = len(out) // count
    for index in range(1, count):
        out[index * part : (index + 1) * part] = out[:part]
