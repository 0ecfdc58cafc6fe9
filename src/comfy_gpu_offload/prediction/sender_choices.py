"""The decisions of a prediction's sender: which columns to fit, and whether to try at all.

They cost or save time and bytes, and never change what the receiver restores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..io import codecs
from . import arithmetic
from .arithmetic import Column, Fit
from .latent import LatentBytes

# A fit by the newest columns alone is compared with the fit by all at every fourth call, and may be worse by this
# share of exact elements; if fewer than the least share are exact, the columns may be another run's.
_COMPARE_EVERY, _AS_WELL, _LEAST_EXACT = 4, 0.02, 0.3
# After so many payloads in a row that were hardly smaller, prediction is tried at every eighth call only: it takes
# time.
_MISSES = 3
_RETRY_EVERY = 8
# A payload pays below this share of what plain coding makes of the tensor.
_WORTHWHILE = 0.9
# Plain coding need not be tried if the payload is below this share of its last result, or below this share of the
# uncompressed bytes: plain coding leaves two thirds of a latent.
_DECIDED = 0.75
_CLEARLY_SMALLER = 0.2


@dataclass
class ColumnChoice:
    """The choice between all columns of an input's basis and the newest ones, which take less time.

    The steps of Euler's method, for one, go from the last state by the last output alone. Both fits are made at
    every fourth call. In between, the newest columns are used if they did as well then and still do.

    Attributes:
        calls: the inputs fitted so far.
        exact: the share of elements that the newest columns gave exactly when both were compared; None if they did
            worse than all.
    """

    calls: int = 0
    exact: float | None = None

    def fit(self, target: Column, basis: Sequence[Column], newest: Sequence[int]) -> Fit:
        """Fit `target` to `basis`, or to its columns at the positions `newest` alone."""
        self.calls += 1
        is_due = self.calls % _COMPARE_EVERY == 1
        if self.exact is not None and not is_due:
            found = arithmetic.fit_few(target, basis, newest)
            if found.exact > self.exact - _AS_WELL:
                return found
        whole = arithmetic.fit(target, basis)
        if self.exact is None and not is_due:
            return whole
        part = arithmetic.fit_few(target, basis, newest)
        does_as_well = part.exact > max(whole.exact - _AS_WELL, _LEAST_EXACT)
        self.exact = part.exact if does_as_well else None
        return part if does_as_well else whole


@dataclass
class Payoff:
    """The decision whether prediction is worth its time, by how its last results compared with plain coding.

    Attributes:
        misses: payloads in a row that were hardly smaller.
        skipped: calls that were not tried because of that.
        plain_bytes: what plain coding last made of such a tensor.
        plain_calls: how often that was asked for.
    """

    misses: int = 0
    skipped: int = 0
    plain_bytes: int = 0
    plain_calls: int = 0

    def is_due(self) -> bool:
        """Return whether this call is to be tried: each one, or every eighth after three misses in a row."""
        if self.misses < _MISSES:
            return True
        self.skipped += 1
        return self.skipped % _RETRY_EVERY == 0

    def pays(self, size_bytes: int, latent: LatentBytes, copies: int) -> bool:
        """Return whether a payload of `size_bytes` is worth sending for `latent`, which is `copies` equal parts."""
        paid = size_bytes < _CLEARLY_SMALLER * len(latent.data) / copies
        paid = paid or size_bytes < _WORTHWHILE * self._plainly(size_bytes, latent)
        self.misses = 0 if paid else self.misses + 1
        return paid

    def _plainly(self, size_bytes: int, latent: LatentBytes) -> int:
        """Return the bytes of plain coding: much the same from call to call, so only renewed where they decide."""
        self.plain_calls += 1
        if size_bytes > _DECIDED * self.plain_bytes or self.plain_calls % _RETRY_EVERY == 0:
            self.plain_bytes = len(codecs.encode(codecs.AUTO, latent.data, latent.dtype, latent.shape).payload)
        return self.plain_bytes
