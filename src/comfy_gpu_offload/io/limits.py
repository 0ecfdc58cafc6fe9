"""What a frame may claim."""

from __future__ import annotations

from typing import NamedTuple


class FrameLimits(NamedTuple):
    """What a frame may claim before it is refused. Sizes in bytes."""

    frame_bytes: int = 2 * 1024**3
    header_bytes: int = 32 * 1024**2
    tensor_bytes: int = 4 * 1024**3
    tensors: int = 8192
    rank: int = 64


DEFAULT_LIMITS = FrameLimits()
