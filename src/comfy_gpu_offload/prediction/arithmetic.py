"""The arithmetic of prediction: a tensor from others that both ends hold. docs/prediction.md specifies it.

*Fitting* (`fit`, the sender alone). A sampler's next latent is a linear combination of its earlier states and
outputs, plus what a stochastic sampler adds. Least squares in float64 on a sample of some 8192 elements find the
coefficients. They need not be the best ones, and the receiver does not repeat this: they are sent as float32, 4
bytes per column.

*Predicting* (`predict`, both ends). The combination is computed in float32 with one multiplication and one addition
at a time, in the order of the basis. IEEE 754 rounds each of these in one way only, so both ends get the same bits
whatever their processors, NumPy releases or numbers of threads. A matrix product would not do: BLAS chooses the
order of its sums by the processor, and fuses multiplications with additions where that has them.

*Residuals* (`encode`, `decode`). The prediction is rounded to the tensor's dtype. Bit patterns of floats, mapped to
integers in the order of the numbers (`_ordered`), differ by the number of representable values between them: 0
where the prediction rounds to the target, mostly 1 or -1 where it does not. `residuals` turns these differences
into bytes. Even if the two ends did compute differently, nothing wrong could come of it: the receiver checks a
digest of the result.

*States* (`state`, both ends). The sampler works in float32 and the model gets a rounded copy. Predicting from
rounded copies alone would carry their rounding errors from call to call, many times the bits for multistep
samplers. The float32 value is not sent, but an interval is known in which it lies: that of the numbers that round
to what was received. The prediction, moved into this interval, is closer to the sampler's value than the rounded
copy is.

All arrays are flat. Infinities and NaNs are handled as bit patterns; in predictions and states, 0 stands for them.
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
"""The dtypes that can be predicted, by their names in safetensors -> the unsigned words of their bit patterns."""

# The bits of float32's mantissa (23) that rounding to the dtype drops.
_DROPPED_BITS = {"BF16": 16, "F16": 13, "F32": 0}
# The exponent bits, all set: infinities and NaNs have them.
_INFINITE = {"BF16": 0x7F80, "F16": 0x7C00}
_SAMPLES = 8192
# The columns of a basis are nearly dependent, since a model's outputs resemble each other. A direction whose
# singular value is smaller than this, relative to the largest, consists of the columns' own rounding errors.
_DEPENDENT = 3e-7
# If more of the sample's intervals are missed than this share, the combination predicts nothing, and moving it
# further into the intervals is not worth the time.
_FAR = 0.7
_STEPS = 10
# OpenBLAS uses one thread up to 262,144 multiplications (interface/gemm.c: 4 x 65536); this leaves a margin.
_ONE_THREAD = 200_000
_DAMPING = 1e-4
# The elements predicted at a time, so that everything that is touched fits in a core's cache.
_STRIDE = 16_384


class Column(NamedTuple):
    """One tensor of a basis.

    Attributes:
        words: the bit patterns of its elements, `[N]`.
        dtype: its dtype, a key of `WORDS`.
    """

    words: Words
    dtype: str

    @property
    def size(self) -> int:
        """Return the number of elements."""
        return self.words.size

    def values(self, part: slice) -> Floats:
        """Return the elements of `part` as float32, which holds each of them exactly."""
        return _values(self.words[part], self.dtype)


def column(data: Buffer, dtype: str) -> Column:
    """Return `data`, a tensor's elements in row-major order, as a column; `dtype` is a key of `WORDS`."""
    return Column(np.frombuffer(data, WORDS[dtype]), dtype)


class Fit(NamedTuple):
    """A fitted prediction of a tensor.

    Attributes:
        coefficients: float32, one per column of the basis.
        unexplained: the share of the target's energy (sum of squares) that is left after least squares.
        exact: the share of its elements whose prediction rounds to them.
    """

    coefficients: Floats
    unexplained: float
    exact: float


def fit(target: Column, basis: Sequence[Column]) -> Fit:
    """Fit a linear combination of `basis` to `target`, on a sample of its elements.

    Least squares first: columns are scaled to length 1, then replaced by orthonormal combinations of them (`back`),
    on which the coefficients (`along`) are plain inner products. Least squares takes the rounded target for the
    truth, so that rounding errors count as errors. Hence the second step (`_into_cells`): only what lies outside
    the interval that rounds to the target counts, because a residual of 0 costs nothing wherever in the interval
    the prediction is.
    """
    # An odd step, because a power of two would sample the same columns of every row of a picture.
    sample = slice(None, None, max(1, target.size // _SAMPLES) | 1)
    words = np.ascontiguousarray(target.words[sample])
    with np.errstate(invalid="ignore"):  # a signalling NaN
        rows = np.stack([each.values(sample) for each in basis]).astype(np.float64)
        low, wanted, high = (bound.astype(np.float64) for bound in _cells(words, target.dtype))
    finite = np.isfinite(low) & np.isfinite(high) & np.isfinite(rows).all(axis=0)
    rows, low, wanted, high = rows[:, finite], low[finite], wanted[finite], high[finite]
    scale = np.sqrt(np.square(rows).sum(axis=1))
    scale[~(np.isfinite(scale) & (scale > 0))] = np.inf  # a column of zeros, which gets the coefficient 0
    rows /= scale[:, None]
    try:
        back, span = _orthonormal(rows)
        # Twice: a Gram matrix has the square of the condition, which leaves the first pass's rows not quite
        # orthonormal.
        again, span = _orthonormal(span)
    except np.linalg.LinAlgError:  # the eigenvalues did not converge
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
    """Fit the columns at the positions `few` alone; the others get the coefficient 0, which saves time."""
    found = fit(target, [basis[index] for index in few])
    coefficients = np.zeros(len(basis), np.float32)
    coefficients[list(few)] = found.coefficients
    return found._replace(coefficients=coefficients)


def _into_cells(span: Matrix, along: Matrix, low: Matrix, high: Matrix) -> Matrix:
    """Return coefficients of `span`, improved from `along`, with which more of the sample lies in `low` to `high`.

    The sum of the squares of the distances to the intervals is convex, and zero for what lies inside. Its second
    derivative is the Gram matrix of the elements outside, so Newton's steps solve the normal equations of those
    alone. Damping keeps them solvable where fewer elements are outside than there are columns.
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
    """Return factors `[K, M]`, and the orthonormal rows `[K, N]` that they make of `rows` `[M, N]`.

    By the eigenvectors of the Gram matrix. Directions that are nearly dependent are left out, so `K` may be below
    `M`.
    """
    squares, directions = np.linalg.eigh(_gram(rows, rows))
    kept = squares > _DEPENDENT**2 * squares.max(initial=0)
    combinations = (directions[:, kept] / np.sqrt(squares[kept])).T
    return combinations, _combined(combinations, rows)


def _gram(rows: Matrix, others: Matrix) -> Matrix:
    """Return the inner products `[M, K]` of `rows` `[M, N]` with `others` `[K, N]`.

    In pieces too small for BLAS to use threads: on a machine that has other work, waiting for its threads takes
    longer than these sums do.
    """
    total = np.zeros((len(rows), len(others)))
    for part in _pieces(rows.shape[1], rows.shape[0] * others.shape[0]):
        total += rows[:, part] @ others[:, part].T
    return total


def _combined(factors: Matrix, rows: Matrix) -> Matrix:
    """Return the combinations `[K, N]` of `rows` `[M, N]` by `factors` `[K, M]`, in pieces as in `_gram`."""
    out = np.empty((len(factors), rows.shape[1]))
    for part in _pieces(rows.shape[1], factors.size):
        np.matmul(factors, rows[:, part], out=out[:, part])
    return out


def _pieces(length: int, products: int) -> Iterator[slice]:
    size = max(16, _ONE_THREAD // max(products, 1))
    return (slice(start, start + size) for start in range(0, length, size))


def predict(basis: Sequence[Column], coefficients: Floats) -> Floats:
    """Return the combination of `basis` with these coefficients: float32 `[N]`, with 0 for what is not finite.

    Both ends must get the same bits; see the module's docstring for why they do. A column whose coefficient is 0 is
    left out, even if it holds infinities.

    Raises:
        CodecError: there are not as many coefficients as columns.
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
                # Two NumPy calls, and so two roundings. A fused multiply-add has one, and not every machine has it.
                product = np.multiply(each.values(part), factor)
                np.add(total, product, out=total)
            total[~np.isfinite(total)] = 0
    return out


def encode(target: Column, predicted: Floats) -> Buffer:
    """Return the residuals of `target` as bytes, from which `decode` restores it."""
    away = _ordered(target.words) - _ordered(_rounded(predicted, target.dtype))
    return residuals.encode(away, residuals.PredictedValues(predicted, _DROPPED_BITS[target.dtype]))


def decode(payload: memoryview, dtype: str, predicted: Floats) -> Column:
    """Return the target that `encode` was given, by the same prediction.

    Raises:
        CodecError: the payload does not decode to as many elements as were predicted.
    """
    away = residuals.decode(
        payload, np.dtype(WORDS[dtype]), residuals.PredictedValues(predicted, _DROPPED_BITS[dtype])
    )
    return Column(_unordered(_ordered(_rounded(predicted, dtype)) + away), dtype)


def state(target: Column, predicted: Floats | None = None) -> Column:
    """Return what is known of the float32 numbers that were rounded to `target`, as a float32 column (a copy).

    That is the prediction where it rounds to the target, and elsewhere the number nearest to it that does. Without
    a prediction it is the target. 0 stands for what is not finite.
    """
    if predicted is None or target.dtype == "F32":
        known = _values(target.words, target.dtype)
        return Column(np.where(np.isfinite(known), known, np.float32(0)).view(np.uint32), "F32")
    found, infinite = predicted.copy(), target.words.dtype.type(_INFINITE[target.dtype])
    elsewhere = _rounded(predicted, target.dtype) != target.words
    elsewhere |= (target.words & infinite) == infinite  # a finite prediction may round to infinity
    places = np.flatnonzero(elsewhere)
    low, known, high = _cells(target.words[places], target.dtype)
    with np.errstate(invalid="ignore"):
        nearest = np.where(np.isfinite(known), np.clip(predicted[places], low, high), np.float32(0))
    found[places] = np.where(np.isfinite(nearest), nearest, np.float32(0))
    return Column(found.view(np.uint32), "F32")


def _cells(words: Words, dtype: str) -> tuple[Floats, Floats, Floats]:
    """Return the least number that rounds to each word, its value, and the greatest: float32 `[N]`.

    The borders lie half-way to the neighbouring representable numbers.
    """
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
    """Return the words of the nearest numbers of `dtype`, ties to even; `numbers` are finite float32."""
    if dtype == "F32":
        return numbers.view(np.uint32)
    if dtype == "F16":
        with np.errstate(over="ignore", under="ignore"):
            return numbers.astype(np.float16).view(np.uint16)
    # NumPy has no bfloat16. Adding just under half a unit, or half of one if the last bit kept is odd, carries into
    # the upper 16 bits where rounding goes up.
    bits = numbers.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _ordered(words: Words) -> Words:
    """Return unsigned integers in the order of the floats whose bit patterns the words are.

    Patterns of positive floats are in order already and get the top bit. Those of negative floats are in reverse
    order, so all their bits are flipped.
    """
    top = 8 * words.itemsize - 1
    kind = words.dtype.type
    order: Words = words ^ (np.subtract(kind(0), words >> top) | kind(1 << top))
    return order


def _unordered(order: Words) -> Words:
    """Return the words of which `_ordered` made these integers."""
    top = 8 * order.itemsize - 1
    kind = order.dtype.type
    words: Words = order ^ (np.subtract(order >> top, kind(1)) | kind(1 << top))
    return words
