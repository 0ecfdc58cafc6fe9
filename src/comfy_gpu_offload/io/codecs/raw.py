"""The codec that stores a tensor's bytes as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...errors import CodecError
from ..buffers import Buffer


@dataclass(frozen=True)
class Raw:
    """A tensor's bytes as they are. Neither direction copies: both return views."""

    name: ClassVar[str] = "raw"
    lossless: ClassVar[bool] = True
    typical_share: ClassVar[float] = 1.0

    def encode(self, data: memoryview, dtype: str, shape: tuple[int, ...]) -> Buffer | None:
        return data

    def decode(self, payload: memoryview, size_bytes: int, dtype: str, shape: tuple[int, ...]) -> memoryview:
        if len(payload) != size_bytes:
            raise CodecError(f"raw: {len(payload)} bytes in place of {size_bytes}")
        return payload
