"""A frame's header, compressed: a model's description and a template of patches are long and repeat themselves."""

from __future__ import annotations

from typing import Final

import zstandard

from ..errors import CodecError, FrameError
from .codecs.zstd import Zstd

PACKED: Final = 1
"""The bit of a frame's flags that says that its header is compressed."""
# Below it a header takes one packet in any case.
_SMALLEST_BYTES = 1024


def packed(header: bytes) -> bytes | None:
    """Return `header` compressed by Zstandard; None if it is small, or would not be smaller."""
    if len(header) < _SMALLEST_BYTES:
        return None
    made = zstandard.ZstdCompressor(level=3, write_content_size=True).compress(header)
    return made if len(made) < len(header) else None


def unpacked(data: memoryview, limit_bytes: int) -> bytes:
    """Return the header that was compressed to `data`. Its size is checked before memory is allocated.

    Raises:
        FrameError: it is larger than `limit_bytes`, or does not decompress.
    """
    try:
        size_bytes = zstandard.get_frame_parameters(data).content_size
    except zstandard.ZstdError as error:
        raise FrameError("bad_header", f"it does not decompress: {error}") from error
    if size_bytes == zstandard.CONTENTSIZE_UNKNOWN:
        raise FrameError("bad_header", "it is compressed, and does not say how large it is")
    if size_bytes > limit_bytes:
        raise FrameError("header_too_large", f"{size_bytes} bytes once decompressed, over {limit_bytes}")
    try:
        return bytes(Zstd().decode(data, size_bytes, "U8", (size_bytes,)))
    except CodecError as error:
        raise FrameError("bad_header", f"it does not decompress: {error}") from error
