"""The speed of the link between client and worker: its measurement, and its estimate from a session's exchanges.

A link is described by three figures: its round trip, and its rates up and down. `measure_link` takes transfers of
its own for them. `estimated_link` fits them to exchanges that a session has made anyway.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

import numpy as np

from ...transport.base import Check

# A new connection's congestion window grows with the first transfers; the ones after those count.
_SETTLING, _COUNTED = 2, 3
FASTEST: Final = 10e9
"""The highest rate that is believed, bytes/s: that of a transfer too short to be told from the round trip."""

# The weight of an exchange relative to the one after it.
_FADING = 0.93
# The weight of the guess relative to the last exchange: enough to decide what the exchanges leave open, and no
# more.
_GUESS_WEIGHT = 3e-5
# The number of exchanges in a row that must contradict all earlier ones before the link counts as changed.
_CHANGED = 3


class Prober(Protocol):
    """Measures transfers to the worker: a `Link`, or a `Session`."""

    def probe(self, up_bytes: int = 0, down_bytes: int = 0, *, check: Check | None = None) -> float:
        """Return seconds: see `Link.probe`."""


@dataclass(frozen=True)
class LinkSpeed:
    """A link as its user experiences it.

    Attributes:
        round_trip_s: seconds of an exchange of nothing.
        up, down: bytes per second.
    """

    round_trip_s: float
    up: float
    down: float

    def network_s(self, up_bytes: float, down_bytes: float) -> float:
        """Return the seconds that one exchange of so many bytes takes."""
        return self.round_trip_s + up_bytes / self.up + down_bytes / self.down


class Transfer(NamedTuple):
    """One exchange.

    Attributes:
        up, down: bytes of the whole frames.
        seconds: its duration without the time in which either side computed or coded.
    """

    up: int
    down: int
    seconds: float


NEAR: Final = LinkSpeed(0.0003, 1e9, 1e9)
"""The guess for an address of this machine, until its round trip shows that it is the end of a tunnel."""

FAR: Final = LinkSpeed(0.02, 5e6, 12.5e6)
"""The guess for any other address: 20 ms, 40 Mbit/s up and 100 Mbit/s down."""


def measure_link(prober: Prober, size_bytes: int, check: Check | None = None) -> LinkSpeed:
    """Measure the link by transfers of `size_bytes`, one direction at a time; the figures are medians.

    Raises:
        OffloadError: the worker cannot be asked.
    """

    def median_s(up: int, down: int) -> float:
        times = [prober.probe(up, down, check=check) for _ in range(_SETTLING + _COUNTED)]
        return statistics.median(times[_SETTLING:])

    round_trip_s = median_s(0, 0)
    shortest_s = size_bytes / FASTEST
    up_s, down_s = median_s(size_bytes, 0) - round_trip_s, median_s(0, size_bytes) - round_trip_s
    return LinkSpeed(round_trip_s, size_bytes / max(up_s, shortest_s), size_bytes / max(down_s, shortest_s))


def estimated_link(transfers: Sequence[Transfer], guess: LinkSpeed, empty_s: float | None = None) -> LinkSpeed:
    """Fit the link's speed to `transfers`, oldest first, and to an exchange of nothing that took `empty_s`.

    The fit minimises the squares of relative errors, and none of the three figures is negative. What the transfers
    do not tell apart (equal sizes up and down, say) keeps the proportions of `guess`. If the last transfers took
    more than twice or less than half the time that all of them together suggest, the link has changed, and only
    they count.
    """
    empty = [] if empty_s is None else [Transfer(0, 0, empty_s)]
    found = _fitted([*transfers, *empty], guess)
    last = list(transfers[-_CHANGED:])
    ratios = [each.seconds / max(found.network_s(each.up, each.down), 1e-9) for each in last]
    if len(transfers) > _CHANGED and (min(ratios) > 2 or max(ratios) < 0.5):
        return _fitted([*last, *empty], guess)
    return found


def _fitted(transfers: Sequence[Transfer], guess: LinkSpeed) -> LinkSpeed:
    # The unknowns are the three terms of `network_s` in units of the guess, and each equation is divided by the
    # time that its transfer took: an error of a tenth then counts as much for a short transfer as for a long one.
    guessed = np.array([guess.round_trip_s, 1 / guess.up, 1 / guess.down])
    rows, wanted = [_GUESS_WEIGHT * np.eye(3)], [_GUESS_WEIGHT * np.ones(3)]
    for age, transfer in enumerate(reversed(transfers)):
        row = guessed * (1, transfer.up, transfer.down) / max(transfer.seconds, 1e-6)
        rows.append(_FADING**age * row[None])
        wanted.append(np.array([_FADING**age]))
    found = guessed * _not_negative(np.concatenate(rows), np.concatenate(wanted))
    return LinkSpeed(float(found[0]), *(1 / max(float(each), 1 / FASTEST) for each in found[1:]))


def _not_negative(rows: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the least squares solution without a negative number, by trying every choice of zeros.

    There are three unknowns. SciPy has this as `nnls`, and would be needed for these lines alone.
    """
    best, least = np.zeros(rows.shape[1]), np.inf
    for used in itertools.product((True, False), repeat=rows.shape[1]):
        chosen = rows[:, used]
        some = np.linalg.solve(chosen.T @ chosen, chosen.T @ wanted)
        missed = float(np.square(wanted - chosen @ some).sum())
        if (some >= 0).all() and missed < least:
            best, least = np.zeros(rows.shape[1]), missed
            best[list(used)] = some
        if all(used) and missed == least:
            break  # the unconstrained solution is not negative, so no constrained one is better
    return best
