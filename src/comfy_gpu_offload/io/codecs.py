"""Codecs: how one tensor's bytes are stored in a frame. All are lossless.

A codec is a frozen value. Its name and parameters go into the frame's header, so a decoder needs nothing
else. Others join through `register`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import zstandard

from ..errors import CodecError
from .buffers import Buffer, allocate

# zstd's own reference decoder refuses larger windows by default (ZSTD_WINDOWLOG_LIMIT_DEFAULT, 2^27).
_MAX_WINDOW_BYTES = 2**27
# A block is at most 128 KiB and takes at least four bytes (RFC 8878, 3.1.1.2): nothing shrinks further.
_MAX_RATIO = 128 * 1024 // 4
_PROBE_PIECES = 4
_PROBE_PIECE_BYTES = 16 * 1024
# Below this gain the time spent exceeds what a fast link saves, and noise would decide.
_WORTHWHILE_RATIO = 1.1
_SMALLEST_WORTHWHILE_BYTES = 512


@runtime_checkable
class Codec(Protocol):
    """One way to store bytes."""

    name: ClassVar[str]

    def encode(self, data: memoryview, item_bytes: int) -> Buffer | None:
        """`data` encoded, or None where that would not be smaller. `item_bytes`: size of one element."""

    def decode(self, payload: memoryview, size_bytes: int, item_bytes: int) -> memoryview:
        """Exactly `size_bytes` of data, writable. Never allocates more, whatever the payload claims.

        Raises:
            CodecError: the payload does not decode to exactly that size.
        """


@dataclass(frozen=True)
class Raw:
    """The bytes as they are. Neither direction copies."""

    name: ClassVar[str] = "raw"

    def encode(self, data: memoryview, item_bytes: int) -> Buffer | None:
        return data

    def decode(self, payload: memoryview, size_bytes: int, item_bytes: int) -> memoryview:
        if len(payload) != size_bytes:
            raise CodecError(f"raw: {len(payload)} bytes where {size_bytes} belong")
        return payload


@dataclass(frozen=True)
class Zstd:
    """Zstandard (RFC 8878) over the bytes as they are."""

    name: ClassVar[str] = "zstd"

    def encode(self, data: memoryview, item_bytes: int) -> Buffer | None:
        if not _pays(data):
            return None
        payload = zstandard.ZstdCompressor(level=1).compress(data)
        return payload if len(payload) < len(data) else None

    def decode(self, payload: memoryview, size_bytes: int, item_bytes: int) -> memoryview:
        if size_bytes > len(payload) * _MAX_RATIO:
            raise CodecError(f"zstd: {len(payload)} bytes cannot decode to {size_bytes}")
        out = allocate(size_bytes)
        filled = 0
        try:
            # Not decompress(): that believes the size a payload claims and allocates it.
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


def _pays(data: memoryview) -> bool:
    """Whether a sample of `data` shrinks enough to be worth compressing all of it."""
    if len(data) < _SMALLEST_WORTHWHILE_BYTES:
        return False
    if len(data) <= _PROBE_PIECES * _PROBE_PIECE_BYTES:
        return True  # as quick to try
    stride = (len(data) - _PROBE_PIECE_BYTES) // (_PROBE_PIECES - 1)
    pieces = [data[i * stride : i * stride + _PROBE_PIECE_BYTES] for i in range(_PROBE_PIECES)]
    sample = b"".join(pieces)
    return len(zstandard.ZstdCompressor(level=1).compress(sample)) * _WORTHWHILE_RATIO < len(sample)


RAW = Raw()
ZSTD = Zstd()

_REGISTRY: dict[str, type[Codec]] = {}


def register(codec: type[Codec]) -> None:
    """Adds a codec class. Its name must be new, and its instances are made from their parameters.

    Raises:
        ValueError: the name is taken.
    """
    if codec.name in _REGISTRY:
        raise ValueError(f"a codec named {codec.name!r} is registered already")
    _REGISTRY[codec.name] = codec


register(Raw)
register(Zstd)


def names() -> tuple[str, ...]:
    """The names of all codecs known here, as the handshake states them."""
    return tuple(_REGISTRY)


def parameters(codec: Codec) -> dict[str, Any]:
    """The codec's parameters, as the frame's header states them: its dataclass fields."""
    return asdict(codec)  # type: ignore[call-overload, no-any-return]


def named(name: str, values: Mapping[str, Any] | None = None) -> Codec:
    """The codec of that name with those parameters.

    Raises:
        CodecError: no codec of that name is known, or the parameters are not its own.
    """
    kind = _REGISTRY.get(name)
    if kind is None:
        raise CodecError(f"the codec {name!r:.40} is not known here; known are {', '.join(_REGISTRY)}")
    try:
        return kind(**(values or {}))
    except (TypeError, ValueError) as error:
        raise CodecError(f"{name}: these parameters are not its own") from error
