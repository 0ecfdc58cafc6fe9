"""Blocks of words stored as byte planes, each plane coded as it deserves. docs/codecs.md has the layout.

The exponents of floats repeat and their mantissas are noise, so the two are worth keeping apart. Integers that
are small leave whole planes empty.
"""

from __future__ import annotations

import struct
import threading
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from ...errors import CodecError
from ..buffers import Buffer
from .sample import sample_of

Words = NDArray[np.unsignedinteger[Any]]
Bytes = NDArray[np.uint8]

# In a block: of each plane, how it is stored and in how many bytes.
PLANE_HEAD = struct.Struct("<BI")
RAW, ZSTD = 0, 1
# Against Huffman-coded noise one finds no matches; this finds none but runs, and leaves everything to the
# coder of literals. Any zstd decodes it.
_LITERALS = zstandard.ZstdCompressionParameters(
    strategy=zstandard.STRATEGY_FAST, window_log=17, hash_log=6, chain_log=6, search_log=1, min_match=7
)
_PIECE_BYTES = 2048
# Of the sample; what does not shrink by more costs both ends more time than the link saves.
_WORTHWHILE = 0.98
# Looking for matches takes three times as long as not to.
_MATCHES_WORTHWHILE = 0.9


class _Compressors(threading.local):
    """Those of one thread: making them takes as long as coding a small tensor."""

    def __init__(self) -> None:
        self.literals = zstandard.ZstdCompressor(compression_params=_LITERALS)
        self.matches = zstandard.ZstdCompressor(level=1)


_compressors = _Compressors()


class PlaneWriter:
    """Stores one block after another; `pieces` are the bytes so far, in order."""

    def __init__(self) -> None:
        self.pieces: list[Buffer] = []
        self._literals, self._matches = _compressors.literals, _compressors.matches

    @property
    def size_bytes(self) -> int:
        return sum(len(piece) for piece in self.pieces)

    def add(self, words: Words, *, rotate: bool) -> None:
        """One block. `rotate`: the words are IEEE floats, whose sign is to go below the mantissa."""
        coded = [self._code(plane) for plane in _split(words, rotate)]
        self.pieces.append(b"".join(PLANE_HEAD.pack(method, len(data)) for method, data in coded))
        self.pieces.extend(data for _, data in coded)

    def _code(self, plane: memoryview) -> tuple[int, Buffer]:
        sample = sample_of(plane, _PIECE_BYTES)
        by_literals, by_matches = self._literals.compress(sample), self._matches.compress(sample)
        if min(len(by_literals), len(by_matches)) > _WORTHWHILE * len(sample):
            return RAW, plane
        matches = len(by_matches) < _MATCHES_WORTHWHILE * len(by_literals)
        if sample is plane:
            coded = by_matches if matches else by_literals
        else:
            coded = (self._matches if matches else self._literals).compress(plane)
        return (ZSTD, coded) if len(coded) < len(plane) else (RAW, plane)


class PlaneReader:
    """Reads one block after another out of `payload`, from `position` on."""

    def __init__(self, payload: memoryview, position: int) -> None:
        self._payload = payload
        self._position = position
        self._decompressor = zstandard.ZstdDecompressor()

    def read_into(self, words: Words, *, rotate: bool) -> None:
        """Fills `words` with the next block; besides, as much as they take is allocated.

        Raises:
            CodecError: there is no such block.
        """
        head = self.take(PLANE_HEAD.size * words.itemsize)
        planes = [
            self._decode(method, self.take(length), words.size) for method, length in PLANE_HEAD.iter_unpack(head)
        ]
        _join(planes, words, rotate)

    def take(self, size_bytes: int) -> memoryview:
        """The next bytes as they are.

        Raises:
            CodecError: fewer are left.
        """
        taken = self._payload[self._position : self._position + size_bytes]
        if len(taken) != size_bytes:
            raise CodecError("the payload ends too early")
        self._position += size_bytes
        return taken

    def finish(self) -> None:
        """Says that nothing more is expected.

        Raises:
            CodecError: there is more.
        """
        if self._position != len(self._payload):
            raise CodecError(f"{len(self._payload) - self._position} bytes too many in the payload")

    def _decode(self, method: int, data: memoryview, count: int) -> Bytes:
        if method == RAW:
            plane: Buffer = data
        elif method == ZSTD:
            plane = self._decompress(data, count)
        else:
            raise CodecError(f"a plane is stored in the unknown way {method}")
        if len(plane) != count:
            raise CodecError(f"a plane of {len(plane)} bytes where {count} belong")
        return np.frombuffer(plane, np.uint8)

    def _decompress(self, data: memoryview, count: int) -> bytes:
        try:
            # decompress() allocates what the data claims to hold.
            if zstandard.get_frame_parameters(data).content_size != count:
                raise CodecError(f"a plane that does not claim to hold {count} bytes")
            return self._decompressor.decompress(data, allow_extra_data=False)
        except (zstandard.ZstdError, MemoryError) as error:
            raise CodecError(f"a plane does not decode: {error}") from error


def _split(words: Words, rotate: bool) -> list[memoryview]:
    """The planes, the least significant one first."""
    if words.itemsize == 1:
        return [memoryview(words)]  # type: ignore[arg-type]  # an ndarray is a buffer; its stubs say so from 3.12 on
    if rotate:
        words = np.bitwise_or(np.left_shift(words, 1), np.right_shift(words, 8 * words.itemsize - 1))
    # A shift and a cast, which run at several times the speed of a strided copy.
    planes = [(words >> (8 * i)).astype(np.uint8) for i in range(words.itemsize)]
    return [memoryview(plane) for plane in planes]  # type: ignore[arg-type]


def _join(planes: list[Bytes], words: Words, rotate: bool) -> None:
    np.copyto(words, planes[-1])
    spare = np.empty_like(words) if len(planes) > 1 else words
    for plane in reversed(planes[:-1]):
        np.left_shift(words, 8, out=words)
        np.copyto(spare, plane)
        np.bitwise_or(words, spare, out=words)
    if rotate:
        np.left_shift(words, 8 * words.itemsize - 1, out=spare)
        np.right_shift(words, 1, out=words)
        np.bitwise_or(words, spare, out=words)
