"""Prediction of a tensor from others that both ends hold. Pure arithmetic; docs/prediction.md specifies it.

prediction  a linear combination of the basis in float32: one multiplication and one addition at a time, in
            the order of the basis, so that both ends get the same bits
residual    how far the actual bit pattern lies from the predicted one, in the order of the numbers
state       the prediction, moved into the interval of numbers that round to what was received: what is known
            of the sender's float32 value, and better than the rounded one
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import CodecError
from ..io.buffers import Buffer
from . import residuals

Floats = NDArray[np.float32]
Matrix = NDArray[np.float64]
Words = NDArray[np.unsignedinteger[Any]]

WORDS: Final[dict[str, str]] = {"BF16": "<u2", "F16": "<u2", "F32": "<u4"}
"""The dtypes that can be predicted, by their names in safetensors, and the words their elements are."""

# Of float32's 23 bits of mantissa, by rounding.
_DROPPED_BITS = {"BF16": 16, "F16": 13, "F32": 0}
# The exponent of infinity and of what is no number.
_INFINITE = {"BF16": 0x7F80, "F16": 0x7C00}
_SAMPLES = 8192
# A basis is nearly dependent (a model's outputs resemble each other); what is more so than this is noise.
_DEPENDENT = 3e-7
# A combination that misses more of the sample's intervals than this is no prediction yet, and needs no polish.
_FAR = 0.7
_STEPS = 10
# Multiplications that OpenBLAS does on one thread (interface/gemm.c: 4 x 65536), with a margin.
_ONE_THREAD = 200_000
_DAMPING = 1e-4
# A part of the tensor for which all that is touched fits in a core's cache.
_STRIDE = 16_384


class Column(NamedTuple):
    """One tensor of a basis: its elements' words, of one dimension, and what they are."""

    words: Words
    dtype: str

    @property
    def size(self) -> int:
        """Elements."""
        return self.words.size

    def values(self, part: slice) -> Floats:
        """Those elements as float32, exactly."""
        return _values(self.words[part], self.dtype)


def column(data: Buffer, dtype: str) -> Column:
    """The tensor's elements; `dtype` is a key of `WORDS`."""
    return Column(np.frombuffer(data, WORDS[dtype]), dtype)


class Fit(NamedTuple):
    """How a tensor is predicted.

    Attributes:
        coefficients: float32, one for each column of the basis.
        unexplained: the share of the tensor's energy that they do not explain.
        exact: the share of its elements for which they give a number that rounds to it.
    """

    coefficients: Floats
    unexplained: float
    exact: float


def fit(target: Column, basis: Sequence[Column]) -> Fit:
    """The combination of `basis` that comes closest to `target`, by least squares on a sample.

    A target that was rounded is met where the combination lies among the numbers that round to it.
    """
    # An odd step meets all columns of a picture in turn.
    sample = slice(None, None, max(1, target.size // _SAMPLES) | 1)
    words = np.ascontiguousarray(target.words[sample])
    with np.errstate(invalid="ignore"):  # a signalling NaN
        rows = np.stack([each.values(sample) for each in basis]).astype(np.float64)
        low, wanted, high = (bound.astype(np.float64) for bound in _cells(words, target.dtype))
    finite = np.isfinite(low) & np.isfinite(high) & np.isfinite(rows).all(axis=0)
    rows, low, wanted, high = rows[:, finite], low[finite], wanted[finite], high[finite]
    scale = np.sqrt(np.square(rows).sum(axis=1))
    scale[~(np.isfinite(scale) & (scale > 0))] = np.inf  # such a column gets the coefficient 0
    rows /= scale[:, None]
    try:
        back, span = _orthonormal(rows)
        again, span = _orthonormal(span)  # once leaves what the square of the condition amplified
    except np.linalg.LinAlgError:  # it did not converge
        return Fit(np.zeros(len(basis), np.float32), 1.0, 0.0)
    along = _gram(span, wanted[None])[:, 0]
    energy = float(np.square(wanted).sum())
    missed = float(np.square(wanted - _combined(along[None], span)[0]).sum())
    along = _into_cells(span, along, low, high)
    with np.errstate(over="ignore"):
        coefficients = (along @ again @ back / scale).astype(np.float32)
    found = _combined(along[None], span)[0]
    exact = (low <= found) & (found <= high)
    unexplained = missed / energy if energy else 0.0
    coefficients[~np.isfinite(coefficients)] = 0
    return Fit(coefficients, unexplained, float(exact.mean()) if exact.size else 1.0)


def fit_few(target: Column, basis: Sequence[Column], few: Sequence[int]) -> Fit:
    """`fit` by those columns of the basis alone. A prediction with the others left out takes less time."""
    found = fit(target, [basis[index] for index in few])
    coefficients = np.zeros(len(basis), np.float32)
    coefficients[list(few)] = found.coefficients
    return found._replace(coefficients=coefficients)


def _into_cells(span: Matrix, along: Matrix, low: Matrix, high: Matrix) -> Matrix:
    """Coefficients of `span` for which more of the sample lies between `low` and `high`, from `along` on.

    Newton's steps for the squares of how far outside the others lie: rounding noise is no error while inside.
    """
    damping = _DAMPING * np.eye(len(span))
    for _ in range(_STEPS):
        found = _combined(along[None], span)[0]
        outward = np.clip(found, low, high) - found
        outside = np.flatnonzero(outward)
        if not outside.size or outside.size > _FAR * found.size:
            break
        those = span[:, outside]
        normal = _gram(those, those) + damping
        along = along + np.linalg.solve(normal, _gram(those, outward[outside][None])[:, 0])
    return along


def _orthonormal(rows: Matrix) -> tuple[Matrix, Matrix]:
    """Which combinations of the rows are orthonormal and span what they do, and those combinations."""
    squares, directions = np.linalg.eigh(_gram(rows, rows))
    kept = squares > _DEPENDENT**2 * squares.max(initial=0)
    combinations = (directions[:, kept] / np.sqrt(squares[kept])).T
    return combinations, _combined(combinations, rows)


def _gram(rows: Matrix, others: Matrix) -> Matrix:
    """The products of all rows with all others, summed along them.

    By BLAS in pieces too small for its threads, which take longer to meet, on a machine that has other work, than
    these sums take.
    """
    total = np.zeros((len(rows), len(others)))
    for part in _pieces(rows.shape[1], rows.shape[0] * others.shape[0]):
        total += rows[:, part] @ others[:, part].T
    return total


def _combined(factors: Matrix, rows: Matrix) -> Matrix:
    """Those combinations of the rows, in pieces as `_gram`."""
    out = np.empty((len(factors), rows.shape[1]))
    for part in _pieces(rows.shape[1], factors.size):
        np.matmul(factors, rows[:, part], out=out[:, part])
    return out


def _pieces(length: int, products: int) -> Iterator[slice]:
    size = max(16, _ONE_THREAD // max(products, 1))
    return (slice(start, start + size) for start in range(0, length, size))


def predict(basis: Sequence[Column], coefficients: Floats) -> Floats:
    """The combination of `basis` with these coefficients, finite everywhere: 0 stands for what is not.

    Raises:
        CodecError: they do not go together.
    """
    if not basis or len(basis) != len(coefficients):
        raise CodecError(f"{len(coefficients)} coefficients for a basis of {len(basis)}")
    out = np.empty(basis[0].size, np.float32)
    used = [(each, factor) for each, factor in zip(basis, coefficients, strict=True) if factor]
    with np.errstate(all="ignore"):
        for start in range(0, out.size, _STRIDE):
            part = slice(start, start + _STRIDE)
            total = out[part]
            total[:] = 0
            for each, factor in used:
                # Two operations, never one fused: those round differently from machine to machine.
                product = np.multiply(each.values(part), factor)
                np.add(total, product, out=total)
            total[~np.isfinite(total)] = 0
    return out


def encode(target: Column, predicted: Floats) -> Buffer:
    """What `decode` makes the target of again."""
    away = _ordered(target.words) - _ordered(_rounded(predicted, target.dtype))
    return residuals.encode(away, residuals.Prediction(predicted, _DROPPED_BITS[target.dtype]))


def decode(payload: memoryview, dtype: str, predicted: Floats) -> Column:
    """The target; as many bytes as it has are its residuals as they are.

    Raises:
        CodecError: the payload does not decode to as many elements as were predicted.
    """
    away = residuals.decode(payload, np.dtype(WORDS[dtype]), residuals.Prediction(predicted, _DROPPED_BITS[dtype]))
    return Column(_unordered(_ordered(_rounded(predicted, dtype)) + away), dtype)


def state(target: Column, predicted: Floats | None = None) -> Column:
    """The float32 numbers that were rounded to `target`, as far as known: the prediction, where it rounds so too.

    Elsewhere it is the number nearest to it that does. A copy, of float32; finite, 0 stands for what is not.
    """
    if predicted is None or target.dtype == "F32":
        known = _values(target.words, target.dtype)
        return Column(np.where(np.isfinite(known), known, np.float32(0)).view(np.uint32), "F32")
    found, infinite = predicted.copy(), target.words.dtype.type(_INFINITE[target.dtype])
    elsewhere = _rounded(predicted, target.dtype) != target.words
    elsewhere |= (target.words & infinite) == infinite  # and what is no number
    places = np.flatnonzero(elsewhere)
    low, known, high = _cells(target.words[places], target.dtype)
    with np.errstate(invalid="ignore"):
        nearest = np.where(np.isfinite(known), np.clip(predicted[places], low, high), np.float32(0))
    found[places] = np.where(np.isfinite(nearest), nearest, np.float32(0))
    return Column(found.view(np.uint32), "F32")


def _cells(words: Words, dtype: str) -> tuple[Floats, Floats, Floats]:
    """The least number that rounds to each word, the number that it is, and the greatest."""
    known = _values(words, dtype)
    if dtype == "F32":
        return known, known, known
    order = _ordered(words)
    with np.errstate(all="ignore"):
        low = (known + _values(_unordered(order - 1), dtype)) * np.float32(0.5)
        high = (known + _values(_unordered(order + 1), dtype)) * np.float32(0.5)
    return low, known, high


def _values(words: Words, dtype: str) -> Floats:
    if dtype == "BF16":
        return (words.astype(np.uint32) << 16).view(np.float32)
    if dtype == "F16":
        return words.view(np.float16).astype(np.float32)
    return words.view(np.float32)


def _rounded(numbers: Floats, dtype: str) -> Words:
    """The words of the nearest numbers of `dtype`, to even; `numbers` are finite."""
    if dtype == "F32":
        return numbers.view(np.uint32)
    if dtype == "F16":
        with np.errstate(over="ignore", under="ignore"):
            return numbers.astype(np.float16).view(np.uint16)
    bits = numbers.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _ordered(words: Words) -> Words:
    """Unsigned integers in the order of the numbers that the words are."""
    top = 8 * words.itemsize - 1
    kind = words.dtype.type
    order: Words = words ^ (np.subtract(kind(0), words >> top) | kind(1 << top))
    return order


def _unordered(order: Words) -> Words:
    top = 8 * order.itemsize - 1
    kind = order.dtype.type
    words: Words = order ^ (np.subtract(order >> top, kind(1)) | kind(1 << top))
    return words
