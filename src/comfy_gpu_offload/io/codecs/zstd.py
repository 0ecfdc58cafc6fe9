"""The codec for data that repeats in whole elements: Zstandard."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import zstandard

from ...errors import CodecError
from ..buffers import Buffer, allocate
from .copies import copies_in
from .sample import sample_of
from .zstd_ratio import MAX_RATIO

# zstd's own reference decoder refuses larger windows by default (ZSTD_WINDOWLOG_LIMIT_DEFAULT, 2^27).
_MAX_WINDOW_BYTES = 2**27
_PIECE_BYTES = 16 * 1024
# A smaller gain costs more time than a fast link saves, and depends on noise in the sample.
_WORTHWHILE_RATIO = 1.1
_SMALLEST_WORTHWHILE_BYTES = 512


@dataclass(frozen=True)
class Zstd:
    """Zstandard (RFC 8878) over the bytes as they are. Equal entries of a batch take little more than one."""

    name: ClassVar[str] = "zstd"
    lossless: ClassVar[bool] = True
    typical_share: ClassVar[float] = 0.78

    def encode(self, data: memoryview, dtype: str, shape: tuple[int, ...]) -> Buffer | None:
        repeats = len(data) <= _MAX_WINDOW_BYTES and copies_in(data, shape) > 1
        if not repeats and not _pays(data):
            return None
        payload = (_across(len(data)) if repeats else zstandard.ZstdCompressor(level=1)).compress(data)
        return payload if len(payload) < len(data) else None

    def decode(self, payload: memoryview, size_bytes: int, dtype: str, shape: tuple[int, ...]) -> memoryview:
        if size_bytes > len(payload) * MAX_RATIO:
            raise CodecError(f"zstd: {len(payload)} bytes cannot decode to {size_bytes}")
        out = allocate(size_bytes)
        filled = 0
        try:
            # Not decompress(), which allocates the size that a payload claims.
            decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)
            with decompressor.stream_reader(payload, read_across_frames=False) as reader:
                while filled < size_bytes and (count := reader.readinto(out[filled:])):
                    filled += count
                surplus = reader.read(1)
        except (zstandard.ZstdError, MemoryError) as error:
            raise CodecError(f"zstd: the payload does not decode: {error}") from error
        if filled != size_bytes or surplus:
            raise CodecError(f"zstd: the payload does not decode to {size_bytes} bytes")
        return out


def _across(size_bytes: int) -> zstandard.ZstdCompressor:
    """Return a compressor that finds repetitions at any distance in data of that size: equal entries of a batch."""
    window_log = max(zstandard.WINDOWLOG_MIN, (size_bytes - 1).bit_length())
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=window_log, enable_ldm=True)
    return zstandard.ZstdCompressor(compression_params=parameters)


def _pays(data: memoryview) -> bool:
    """Return whether a sample of `data` shrinks enough for compressing all of it to be worthwhile."""
    if len(data) < _SMALLEST_WORTHWHILE_BYTES:
        return False
    sample = sample_of(data, _PIECE_BYTES)
    if sample is data:
        return True  # compressing it is as quick as compressing a sample
    return len(zstandard.ZstdCompressor(level=1).compress(sample)) * _WORTHWHILE_RATIO < len(sample)
