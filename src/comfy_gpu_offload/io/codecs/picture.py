"""The lossless codec for pictures and video: differences of neighbouring elements, stored as byte planes."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from ...errors import CodecError
from ..buffers import Buffer, allocate
from .copies import HEAD_BYTES, copies_in, fill, head, read_head
from .plane_blocks import PlaneReader, PlaneWriter, Words
from .planes import BLOCK_BYTES, words_of

# Before each plane block: at which distance, in words, lies the word that was subtracted. 0: none was.
_DISTANCE = struct.Struct("<I")
_FURTHEST: Final = 2**32 - 1

_SMALLEST_WORTHWHILE_BYTES = 512
# A last dimension of up to so many elements is taken for channels: grey, with alpha, RGB, RGBA.
_MOST_CHANNELS = 4
_SAMPLE_PIECES, _SAMPLE_WORDS = 4, 2048
# Adding up differences takes a decoder longer than not to, so they must gain this much.
_WORTHWHILE = 0.98
# Rows of at least so many words are added up by doubling.
_DOUBLED_FROM = 64


@dataclass(frozen=True)
class Picture:
    """Byte planes of what is left when each element's neighbour has been subtracted from it, as integers.

    The neighbour is the one to the left, above, or in the frame before, for each block the one that makes a sample
    of it smallest, or none. A decoded picture in bf16 takes 40 to 55 % of its bytes, and 10 to 35 % less than by
    `planes` (benchmarks/codecs.py). Of equal entries of a batch, one is stored.
    """

    name: ClassVar[str] = "picture"
    lossless: ClassVar[bool] = True
    typical_share: ClassVar[float] = 0.67

    def encode(self, data: memoryview, dtype: str, shape: tuple[int, ...]) -> Buffer | None:
        if len(data) < _SMALLEST_WORTHWHILE_BYTES:
            return None
        count = copies_in(data, shape)
        words, rotate = words_of(data[: len(data) // count], dtype)
        distances = _neighbours(shape, words.size * count)
        writer = PlaneWriter()
        for begin, end in _blocks(words):
            distance = _nearest(words, begin, end, distances, rotate)
            writer.pieces.append(_DISTANCE.pack(distance))
            if distance:
                writer.add(_folded(_differences(words, begin, end, distance)), rotate=False)
            else:
                writer.add(words[begin:end], rotate=rotate)
        if HEAD_BYTES + writer.size_bytes >= len(data):
            return None
        return b"".join([head(count), *writer.pieces])

    def decode(self, payload: memoryview, size_bytes: int, dtype: str, shape: tuple[int, ...]) -> memoryview:
        count, _ = read_head(payload, size_bytes, shape)
        out = allocate(size_bytes)
        words, rotate = words_of(out[: size_bytes // count], dtype)
        reader = PlaneReader(payload, HEAD_BYTES)
        for begin, end in _blocks(words):
            (distance,) = _DISTANCE.unpack(reader.take(_DISTANCE.size))
            _check_distance(distance, words.size)
            reader.read_into(words[begin:end], rotate=rotate and not distance)
            if distance:
                _unfold(words[begin:end])
                _add_up(words, begin, end, distance)
        reader.finish()
        fill(out, count)
        return out


def _blocks(words: Words) -> Iterator[tuple[int, int]]:
    step = BLOCK_BYTES // words.itemsize
    return ((begin, min(begin + step, words.size)) for begin in range(0, words.size, step))


def _neighbours(shape: tuple[int, ...], words: int) -> list[int]:
    """Return the distances in words to the neighbours of an element: left, above, in the frame before.

    Of a picture with its channels last, the left neighbour is that of the same channel. Where channels come first,
    what is called the frame before is the channel before, for a picture. `words`: in the whole tensor.
    """
    has_channels_last = len(shape) > 2 and shape[-1] <= _MOST_CHANNELS
    step = words // math.prod(shape) * (shape[-1] if has_channels_last else 1)
    distances = [step]
    for size in reversed(shape[1:-1] if has_channels_last else shape[1:]):
        step *= size
        distances.append(step)
    return [distance for distance in dict.fromkeys(distances[:3]) if distance <= min(words // 2, _FURTHEST)]


def _nearest(words: Words, begin: int, end: int, distances: list[int], rotate: bool) -> int:
    """Return the distance at which a sample of the block has differences that take fewest bytes, or 0."""
    starts = np.linspace(begin, max(end - _SAMPLE_WORDS, begin), _SAMPLE_PIECES, dtype=np.int64)
    places = [(int(start), min(int(start) + _SAMPLE_WORDS, end)) for start in dict.fromkeys(starts)]
    best, fewest = 0, _WORTHWHILE * _stored_bytes([words[a:b] for a, b in places], rotate)
    for distance in distances:
        size = _stored_bytes([_folded(_differences(words, a, b, distance)) for a, b in places], False)
        if size < fewest:
            best, fewest = distance, size
    return best


def _stored_bytes(pieces: list[Words], rotate: bool) -> int:
    writer = PlaneWriter()
    writer.add(np.concatenate(pieces), rotate=rotate)
    return writer.size_bytes


def _differences(words: Words, begin: int, end: int, distance: int) -> Words:
    """Return each word of the block less the one so far before it; words before the first one are 0."""
    first = max(begin, distance)
    if first >= end:
        return words[begin:end]
    rest = np.subtract(words[first:end], words[first - distance : end - distance])
    return rest if first == begin else np.concatenate([words[begin:first], rest])


def _add_up(words: Words, begin: int, end: int, distance: int) -> None:
    """Undo `_differences` in place, in the block from `begin` to `end`; all before it is done."""
    # The words whose neighbour lies before this block.
    first, last = max(begin, distance), min(end, begin + distance)
    if first < last:
        words[first:last] += words[first - distance : last - distance]
    block = words[begin:end]
    if distance >= block.size:
        return
    if distance < _DOUBLED_FROM:
        whole = block.size // distance * distance
        rows = block[:whole].reshape(-1, distance)
        np.add.accumulate(rows, axis=0, out=rows)
        block[whole:] += block[whole - distance : block.size - distance]
        return
    # Sums of 2, 4, 8, ... words. Takes a third of the time of `accumulate` along rows as long as a picture's.
    while distance < block.size:
        block[distance:] += block[:-distance].copy()
        distance *= 2


def _folded(differences: Words) -> Words:
    """Return two's complement integers with their sign as the lowest bit: small numbers have small codes."""
    signs = np.right_shift(differences.view(f"<i{differences.itemsize}"), 8 * differences.itemsize - 1)
    folded: Words = np.left_shift(differences, 1)
    np.bitwise_xor(folded, signs.view(differences.dtype), out=folded)
    return folded


def _unfold(words: Words) -> None:
    """Undo `_folded` in place."""
    signs = np.negative(np.bitwise_and(words, 1))
    np.right_shift(words, 1, out=words)
    np.bitwise_xor(words, signs, out=words)


def _check_distance(distance: int, count: int) -> None:
    """Refuse a distance that no sender makes.

    Raises:
        CodecError: it is longer than the tensor.
    """
    if distance >= count:
        raise CodecError(f"a difference at a distance of {distance} words in a tensor of {count}")
