"""How far a tensor lies from its prediction, as bytes. docs/prediction.md specifies the form.

Both ends have the prediction, so both know how it is off, where it is: a number that was rounded is off towards the
border of what rounds as it does, and by one; and where most are off, small numbers are off by more steps than large
ones, since theirs are smaller.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import CodecError
from ..io.codecs.plane_blocks import PlaneReader, PlaneWriter

Words = NDArray[np.unsignedinteger[Any]]
Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

# The ways: nothing is off; few are, mostly by one towards the border; most are.
EXACT, NEAR, WIDE = 0, 1, 2
_WAY: Final = struct.Struct("<B")
_COUNT: Final = struct.Struct("<I")
# Of all: where more are off, those that are not do not pay to be told apart.
_MANY = 0.5
# What stands for so many that are not off; any other symbol says how many were not before one that is.
_RUN, _RUN_LENGTH = 255, 127
# More save bytes, and take more time than a link of 50 Mbit/s needs for those.
_GROUPS = 4
_BLOCK_WORDS = 2**19


class Prediction(NamedTuple):
    """What both ends know of a residual before they have it.

    Attributes:
        values: what was predicted, finite.
        dropped_bits: of float32's mantissa, by the rounding to the tensor's dtype.
    """

    values: Floats
    dropped_bits: int

    def downward(self) -> NDArray[np.bool_]:
        """Where the nearest border, beyond which rounding gives the next number, lies below the value.

        As if halves had no subnormals: it says which way is likelier, no more.
        """
        if not self.dropped_bits:
            return np.zeros(self.values.size, np.bool_)
        kept, half = np.uint32(2**32 - 2**self.dropped_bits), np.uint32(2 ** (self.dropped_bits - 1))
        borders = ((self.values.view(np.uint32) & kept) | half).view(np.float32)
        below: NDArray[np.bool_] = borders < self.values
        return below


def encode(residual: Words, prediction: Prediction) -> bytes:
    """What `decode` makes the residual of again; it is a difference modulo the size of its words."""
    off = int(np.count_nonzero(residual))
    if not off:
        pieces = [_WAY.pack(EXACT)]
    elif off > _MANY * residual.size:
        pieces = [_WAY.pack(WIDE), *_wide(residual, prediction)]
    else:
        pieces = [_WAY.pack(NEAR), *_near(residual, prediction)]
    coded = b"".join(pieces)
    return coded if len(coded) < residual.nbytes else residual.tobytes()


def decode(payload: memoryview, words: np.dtype[Any], prediction: Prediction) -> Words:
    """The residual of as many elements as were predicted.

    Raises:
        CodecError: the payload is not one of those.
    """
    size = prediction.values.size
    if len(payload) == size * words.itemsize:
        return np.frombuffer(payload, words)
    reader = PlaneReader(payload, 0)
    (way,) = _WAY.unpack(reader.take(_WAY.size))
    if way == EXACT:
        found: Words = np.zeros(size, words)
    elif way == NEAR:
        found = _read_near(reader, words, prediction)
    elif way == WIDE:
        found = _read_wide(reader, words, prediction)
    else:
        raise CodecError(f"a residual stored in the unknown way {way}")
    reader.finish()
    return found


def _near(residual: Words, prediction: Prediction) -> list[Any]:
    places = np.flatnonzero(residual)
    off = _turned(residual[places], prediction.downward()[places])
    other = off != 1
    writer = PlaneWriter()
    for words in (_symbols(places, other), _zigzag(off[other])):
        writer.pieces.append(_COUNT.pack(words.size))
        _write(writer, words)
    return writer.pieces


def _read_near(reader: PlaneReader, words: np.dtype[Any], prediction: Prediction) -> Words:
    size = prediction.values.size
    places, other = _places(_read_counted(reader, np.dtype(np.uint8), size))
    if places.size and places[-1] >= size:
        raise CodecError("a residual of more elements than were predicted")
    off = np.ones(places.size, words)
    rest = _read_counted(reader, words, size)
    if rest.size != np.count_nonzero(other):
        raise CodecError("not as many residuals as places for them")
    off[other] = _unzigzag(rest)
    found = np.zeros(size, words)
    found[places] = _turned(off, prediction.downward()[places])
    return found


def _turned(residual: Words, where: NDArray[np.bool_]) -> Words:
    """Its negative at those places; twice makes it the same again."""
    flip = np.negative(where.astype(residual.dtype))
    turned: Words = np.subtract(residual ^ flip, flip)
    return turned


def _symbols(places: NDArray[np.intp], other: NDArray[np.bool_]) -> Bytes:
    """The places as distances: of each, twice how many lie before it, and one more where it is another than 1."""
    between = np.diff(places, prepend=-1) - 1
    at = np.cumsum(between // _RUN_LENGTH + 1) - 1
    symbols = np.full(at[-1] + 1 if at.size else 0, _RUN, np.uint8)
    symbols[at] = between % _RUN_LENGTH * 2 + other
    return symbols


def _places(symbols: Bytes) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    run = symbols == _RUN
    ends = np.cumsum(np.where(run, _RUN_LENGTH, (symbols >> 1) + np.intp(1)), dtype=np.intp)
    return ends[~run] - 1, (symbols[~run] & 1).astype(np.bool_)


def _wide(residual: Words, prediction: Prediction) -> list[Any]:
    groups = _Groups(prediction.values)
    ordered = np.take(_zigzag(residual), groups.order)
    writer = PlaneWriter()
    for part in groups.slices():
        _write(writer, ordered[part])
    return writer.pieces


def _read_wide(reader: PlaneReader, words: np.dtype[Any], prediction: Prediction) -> Words:
    groups = _Groups(prediction.values)
    ordered = np.empty(prediction.values.size, words)
    for part in groups.slices():
        _read(reader, ordered[part])
    found = np.empty_like(ordered)
    found[groups.order] = _unzigzag(ordered)
    return found


class _Groups:
    """Numbers by their exponents: the two largest (there are few of the largest), the two next, and all below.

    Attributes:
        order: the places of the numbers, group by group, in each as they come.
    """

    def __init__(self, numbers: Floats) -> None:
        exponents = (numbers.view(np.uint32) >> 23) & 255
        first = max(int(exponents.max(initial=0)), 1) - 1
        keys = np.minimum(first - np.minimum(exponents, np.uint32(first)), _GROUPS - 1).astype(np.uint8)
        members = [np.flatnonzero(keys == key) for key in range(_GROUPS)]
        self.order = np.concatenate(members)
        self._ends = list(itertools.accumulate(each.size for each in members))

    def slices(self) -> Iterator[slice]:
        """Where each group lies in that order."""
        return itertools.starmap(slice, itertools.pairwise([0, *self._ends]))


def _read_counted(reader: PlaneReader, words: np.dtype[Any], most: int) -> Words:
    """As many words as are announced, at most so many."""
    (count,) = _COUNT.unpack(reader.take(_COUNT.size))
    if count > most:
        raise CodecError(f"{count} symbols for {most} elements")
    found = np.empty(count, words)
    _read(reader, found)
    return found


def _write(writer: PlaneWriter, words: Words) -> None:
    for start in range(0, words.size, _BLOCK_WORDS):
        writer.add(words[start : start + _BLOCK_WORDS], rotate=False)


def _read(reader: PlaneReader, words: Words) -> None:
    for start in range(0, words.size, _BLOCK_WORDS):
        reader.read_into(words[start : start + _BLOCK_WORDS], rotate=False)


def _zigzag(residual: Words) -> Words:
    """Signed numbers as unsigned ones, small ones small: 0, -1, 1, -2 …"""
    sign = residual >> (8 * residual.itemsize - 1)
    words: Words = np.bitwise_xor(residual << 1, np.negative(sign))
    return words


def _unzigzag(words: Words) -> Words:
    residual: Words = np.bitwise_xor(words >> 1, np.negative(words & 1))
    return residual
