"""Tensors that consist of a few equal parts, of which one is stored.

With guidance, a batch holds the same latent once for each conditioning. Every payload except those of raw and zstd
begins with two bytes: the layout's version, and the number of equal parts along the first dimension (`copies`).
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
# The largest ratio of a tensor to its payload: copies of float32, coded in half a byte each, which zstd has shrunk.
_MAX_RATIO = _MOST * 8 * ZSTD_MAX_RATIO


def copies_in(data: memoryview, shape: tuple[int, ...]) -> int:
    """Return the number of equal parts along the first dimension, 1 to 8."""
    if not shape or not data:
        return 1
    every = np.frombuffer(data, np.uint8)
    for count in range(min(shape[0], _MOST), 1, -1):
        part = len(data) // count
        # The first few bytes nearly always differ, and save comparing the rest.
        glance_equal = data[:_GLANCE_BYTES] == data[part : part + _GLANCE_BYTES]
        if shape[0] % count == 0 and glance_equal and np.array_equal(every[part:], every[:-part]):
            return count
    return 1


def head(count: int) -> bytes:
    """Return the first bytes of a payload whose tensor is `count` copies of what is coded."""
    return bytes([_VERSION, count])


def read_head(payload: memoryview, size_bytes: int, shape: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    """Return the number of copies that a payload states, and the shape of one.

    Raises:
        CodecError: the payload is of another version or far too short for `size_bytes`, or a tensor of that shape
            cannot consist of so many copies.
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
    """Copy the first of the `count` parts of `out` to the others."""
    part = len(out) // count
    for index in range(1, count):
        out[index * part : (index + 1) * part] = out[:part]
