"""Samples of data, from which a codec decides what to do with all of it."""

from __future__ import annotations

from ..buffers import Buffer

_PIECES = 4


def sample_of(data: memoryview, piece_bytes: int) -> Buffer:
    """Return four pieces spread evenly over `data`, first and last included; `data` itself if it is no longer.

    Pieces begin at multiples of 16 bytes, which is a multiple of any element.
    """
    if len(data) <= _PIECES * piece_bytes:
        return data
    stride = (len(data) - piece_bytes) // (_PIECES - 1) // 16 * 16
    return b"".join(data[i * stride : i * stride + piece_bytes] for i in range(_PIECES))
