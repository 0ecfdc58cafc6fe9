"""Blocks of words stored as byte planes, each plane in the way that suits it. docs/codecs.md specifies the layout.

A plane holds the bytes of equal significance of all words in a block. Exponents of floats repeat and mantissas are
noise, so keeping them apart lets the exponents be compressed and the mantissas be stored quickly. Small integers
leave whole planes empty.
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

# At the beginning of a block, for each plane: how it is stored, and in how many bytes.
PLANE_HEAD = struct.Struct("<BI")
RAW, ZSTD = 0, 1
# Exponents of noise have no matches worth searching for. These parameters find hardly any but runs, and leave the
# rest to zstd's Huffman coder of literals. Any zstd decodes it.
_LITERALS = zstandard.ZstdCompressionParameters(
    strategy=zstandard.STRATEGY_FAST, window_log=17, hash_log=6, chain_log=6, search_log=1, min_match=7
)
_PIECE_BYTES = 2048
# A plane whose sample shrinks less costs both ends more time than the link saves.
_WORTHWHILE = 0.98
# Searching for matches takes three times as long as not searching, so it must gain this much.
_MATCHES_WORTHWHILE = 0.9


class _Compressors(threading.local):
    """The compressors of one thread, kept because making them takes as long as coding a small tensor."""

    def __init__(self) -> None:
        self.literals = zstandard.ZstdCompressor(compression_params=_LITERALS)
        self.matches = zstandard.ZstdCompressor(level=1)


_compressors = _Compressors()


class PlaneWriter:
    """Stores one block after another. `pieces` are the bytes so far, in order."""

    def __init__(self) -> None:
        self.pieces: list[Buffer] = []
        self._literals, self._matches = _compressors.literals, _compressors.matches

    @property
    def size_bytes(self) -> int:
        """Return the size of all pieces."""
        return sum(len(piece) for piece in self.pieces)

    def add(self, words: Words, *, rotate: bool) -> None:
        """Store one block; `rotate` moves the sign of IEEE floats from the top bit to the lowest."""
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
    """Reads one block after another from `payload`, beginning at `position`."""

    def __init__(self, payload: memoryview, position: int) -> None:
        self._payload = payload
        self._position = position
        self._decompressor = zstandard.ZstdDecompressor()

    def read_into(self, words: Words, *, rotate: bool) -> None:
        """Fill `words` with the next block; as much memory as they take is allocated besides.

        Raises:
            CodecError: there is no such block.
        """
        head = self.take(PLANE_HEAD.size * words.itemsize)
        planes = [
            self._decode(method, self.take(length), words.size) for method, length in PLANE_HEAD.iter_unpack(head)
        ]
        _join(planes, words, rotate)

    def take(self, size_bytes: int) -> memoryview:
        """Return a view of the next `size_bytes` bytes.

        Raises:
            CodecError: fewer are left.
        """
        taken = self._payload[self._position : self._position + size_bytes]
        if len(taken) != size_bytes:
            raise CodecError("the payload ends too early")
        self._position += size_bytes
        return taken

    def finish(self) -> None:
        """Check that the payload ends here.

        Raises:
            CodecError: it goes on.
        """
        if self._position != len(self._payload):
            raise CodecError(f"{len(self._payload) - self._position} bytes too many in the payload")

    def _decode(self, method: int, data: memoryview, count: int) -> Bytes:
        if method == RAW:
            plane: Buffer = data
        elif method == ZSTD:
            plane = self._decompress(data, count)
        else:
            raise CodecError(f"a plane is stored by the unknown method {method}")
        if len(plane) != count:
            raise CodecError(f"a plane of {len(plane)} bytes where {count} belong")
        return np.frombuffer(plane, np.uint8)

    def _decompress(self, data: memoryview, count: int) -> bytes:
        try:
            # The claim is checked first, because decompress() allocates what the data claims to hold.
            if zstandard.get_frame_parameters(data).content_size != count:
                raise CodecError(f"a plane that does not claim to hold {count} bytes")
            return self._decompressor.decompress(data, allow_extra_data=False)
        except (zstandard.ZstdError, MemoryError) as error:
            raise CodecError(f"a plane does not decode: {error}") from error


def _split(words: Words, rotate: bool) -> list[memoryview]:
    """Return the planes of `words`, the least significant one first."""
    if words.itemsize == 1:
        return [memoryview(words)]  # type: ignore[arg-type]  # an ndarray is a buffer; its stubs say so from 3.12 on
    if rotate:
        words = np.bitwise_or(np.left_shift(words, 1), np.right_shift(words, 8 * words.itemsize - 1))
    # A shift and a cast run several times as fast as a strided copy.
    planes = [(words >> (8 * i)).astype(np.uint8) for i in range(words.itemsize)]
    return [memoryview(plane) for plane in planes]  # type: ignore[arg-type]


def _join(planes: list[Bytes], words: Words, rotate: bool) -> None:
    """Write to `words` what `_split` took apart."""
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
