"""The limits of a frame that is accepted."""

from __future__ import annotations

from typing import NamedTuple


class FrameLimits(NamedTuple):
    """The limits of a frame that is accepted, checked before anything is allocated.

    Attributes:
        frame_bytes, header_bytes: sizes of the frame and its header.
        tensor_bytes: memory that all tensors take, decoded.
        tensors: number of tensors.
        rank: dimensions of a tensor.
    """

    frame_bytes: int = 2 * 1024**3
    header_bytes: int = 32 * 1024**2
    tensor_bytes: int = 4 * 1024**3
    tensors: int = 8192
    rank: int = 64


DEFAULT_LIMITS = FrameLimits()
