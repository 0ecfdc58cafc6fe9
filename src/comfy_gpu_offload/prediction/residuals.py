"""The residuals of a prediction as bytes: how many representable numbers lie between prediction and tensor.

docs/prediction.md specifies the form. There are three, by how many elements are off:

EXACT  none. One byte says so.
NEAR   at most half. A list of places and signs. Most elements that are off are off by one, and which way is known
       beforehand: the interval of numbers that round as the prediction does has two borders, and the nearer one is
       the likelier to have been crossed. So a residual counts as positive towards the nearer border, and hardly any
       needs more than its place.
WIDE   most, as in a run's first outputs. All residuals, in groups by the magnitude of the prediction. An error of
       the same size is many steps of a small number and few of a large one, since steps grow with the numbers. Each
       group is more even than the whole, and Huffman coding makes it smaller.

Both ends have the prediction, float32, so borders and groups need not be sent. Whatever would not be smaller is
sent as the residuals' own bytes, which their length tells from the three forms.

Residuals are unsigned words of the tensor's width (2 or 4 bytes), differences modulo 2^16 or 2^32: -1 is all ones.
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

EXACT, NEAR, WIDE = 0, 1, 2
_FORM: Final = struct.Struct("<B")
_COUNT: Final = struct.Struct("<I")
# If a larger share is off, listing places takes more bytes than giving every residual.
_MANY = 0.5
# The symbol for so many exact elements in a row; any other symbol counts the exact elements before one that is off.
_RUN, _RUN_LENGTH = 255, 127
# More groups would save bytes, but take longer to sort than a link of 50 Mbit/s takes to carry these bytes.
_GROUPS = 4
_BLOCK_WORDS = 2**19


class PredictedValues(NamedTuple):
    """A prediction, which both ends have before the residual.

    Attributes:
        values: float32 `[N]`, finite.
        dropped_bits: the bits of float32's mantissa that rounding to the tensor's dtype drops.
    """

    values: Floats
    dropped_bits: int

    def downward(self) -> NDArray[np.bool_]:
        """Return where the nearer border, beyond which rounding gives another number, lies below the value: `[N]`.

        A float32 number is rounded by dropping its lowest bits. The kept bits followed by 1000… are the border
        between rounding down and up. If the value is above it, it was rounded up and the border is below it.
        Subnormal halves drop more bits than this counts on; the sign is only a guess then, which costs some bytes.
        """
        if not self.dropped_bits:
            return np.zeros(self.values.size, np.bool_)
        kept, half = np.uint32(2**32 - 2**self.dropped_bits), np.uint32(2 ** (self.dropped_bits - 1))
        borders = ((self.values.view(np.uint32) & kept) | half).view(np.float32)
        below: NDArray[np.bool_] = borders < self.values
        return below


def encode(residual: Words, prediction: PredictedValues) -> bytes:
    """Return the bytes from which `decode` restores `residual`, `[N]` words."""
    off = int(np.count_nonzero(residual))
    if not off:
        pieces = [_FORM.pack(EXACT)]
    elif off > _MANY * residual.size:
        pieces = [_FORM.pack(WIDE), *_wide(residual, prediction)]
    else:
        pieces = [_FORM.pack(NEAR), *_near(residual, prediction)]
    coded = b"".join(pieces)
    return coded if len(coded) < residual.nbytes else residual.tobytes()


def decode(payload: memoryview, words: np.dtype[Any], prediction: PredictedValues) -> Words:
    """Return the residual of dtype `words` that was encoded as `payload`, as many elements as were predicted.

    Raises:
        CodecError: the payload is malformed, or of another number of elements.
    """
    size = prediction.values.size
    if len(payload) == size * words.itemsize:
        return np.frombuffer(payload, words)
    reader = PlaneReader(payload, 0)
    (form,) = _FORM.unpack(reader.take(_FORM.size))
    if form == EXACT:
        found: Words = np.zeros(size, words)
    elif form == NEAR:
        found = _read_near(reader, words, prediction)
    elif form == WIDE:
        found = _read_wide(reader, words, prediction)
    else:
        raise CodecError(f"a residual of the unknown form {form}")
    reader.finish()
    return found


def _near(residual: Words, prediction: PredictedValues) -> list[Any]:
    """Return the pieces of a NEAR payload: symbols for the places, then the residuals that are not 1."""
    places = np.flatnonzero(residual)
    off = _turned(residual[places], prediction.downward()[places])
    other = off != 1
    writer = PlaneWriter()
    for words in (_symbols(places, other), _zigzag(off[other])):
        writer.pieces.append(_COUNT.pack(words.size))
        _write(writer, words)
    return writer.pieces


def _read_near(reader: PlaneReader, words: np.dtype[Any], prediction: PredictedValues) -> Words:
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
    """Return `residual` with the sign changed `where` that is True; done twice, this changes nothing.

    In two's complement -x is (x ^ ones) - ones, and x is (x ^ 0) - 0.
    """
    flip = np.negative(where.astype(residual.dtype))
    turned: Words = np.subtract(residual ^ flip, flip)
    return turned


def _symbols(places: NDArray[np.intp], other: NDArray[np.bool_]) -> Bytes:
    """Return places as bytes: for each, the number of exact elements between it and the place before.

    The lowest bit of a symbol says that the residual is another than 1 (`other`). The count is modulo 127, after a
    symbol 255 for each 127 exact elements.
    """
    between = np.diff(places, prepend=-1) - 1
    # Each place takes one symbol, and one more for each full run before it: its own symbol is the last of these.
    at = np.cumsum(between // _RUN_LENGTH + 1) - 1
    symbols = np.full(at[-1] + 1 if at.size else 0, _RUN, np.uint8)
    symbols[at] = between % _RUN_LENGTH * 2 + other
    return symbols


def _places(symbols: Bytes) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Return the places and `other` of which `_symbols` made these bytes."""
    run = symbols == _RUN
    ends = np.cumsum(np.where(run, _RUN_LENGTH, (symbols >> 1) + np.intp(1)), dtype=np.intp)
    return ends[~run] - 1, (symbols[~run] & 1).astype(np.bool_)


def _wide(residual: Words, prediction: PredictedValues) -> list[Any]:
    """Return the pieces of a WIDE payload: the residuals in zigzag, group by group."""
    groups = _Groups(prediction.values)
    ordered = np.take(_zigzag(residual), groups.order)
    writer = PlaneWriter()
    for part in groups.slices():
        _write(writer, ordered[part])
    return writer.pieces


def _read_wide(reader: PlaneReader, words: np.dtype[Any], prediction: PredictedValues) -> Words:
    groups = _Groups(prediction.values)
    ordered = np.empty(prediction.values.size, words)
    for part in groups.slices():
        _read(reader, ordered[part])
    found = np.empty_like(ordered)
    found[groups.order] = _unzigzag(ordered)
    return found


class _Groups:
    """The elements of a prediction in four groups by their binary exponents.

    The first group has the largest exponent and the one below it, since there are few of the largest. The next two
    groups have one exponent each, and the last has all others.

    Attributes:
        order: the places of the elements `[N]`, group by group, ascending within a group.
    """

    def __init__(self, numbers: Floats) -> None:
        exponents = (numbers.view(np.uint32) >> 23) & 255
        first = max(int(exponents.max(initial=0)), 1) - 1  # the lower one of the first group's two
        keys = np.minimum(first - np.minimum(exponents, np.uint32(first)), _GROUPS - 1).astype(np.uint8)
        members = [np.flatnonzero(keys == key) for key in range(_GROUPS)]
        self.order = np.concatenate(members)
        self._ends = list(itertools.accumulate(each.size for each in members))

    def slices(self) -> Iterator[slice]:
        """Yield the slice of `order` that each group takes."""
        return itertools.starmap(slice, itertools.pairwise([0, *self._ends]))


def _read_counted(reader: PlaneReader, words: np.dtype[Any], most: int) -> Words:
    """Return the words after the next count, which is refused if it is over `most`."""
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
    """Map signed numbers to unsigned ones, so that small magnitudes are small: 0, -1, 1, -2 … become 0, 1, 2, 3 …

    High planes of small numbers are then empty, whatever the sign.
    """
    sign = residual >> (8 * residual.itemsize - 1)
    words: Words = np.bitwise_xor(residual << 1, np.negative(sign))
    return words


def _unzigzag(words: Words) -> Words:
    """Return the numbers of which `_zigzag` made these."""
    residual: Words = np.bitwise_xor(words >> 1, np.negative(words & 1))
    return residual
