"""How tensors travel in a session that chooses for itself: the way whose step is the shortest, by what it measured.

The step is that of `step_time`. The link's speed comes out of the session's own exchanges, what a way moves and
takes out of calls that went that way; where nothing was measured yet, a guess stands in. All ways are lossless.
"""

from __future__ import annotations

import itertools
import logging
import statistics
import threading
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

import numpy as np

from ...io import codecs
from ...protocol.abilities import PREDICTED
from ..timings import CallTimings
from .step_time import FASTEST, LinkSpeed, StepCost, fastest, step_s

logger = logging.getLogger(__name__)


class Way(StrEnum):
    """How tensors travel: as they are, by the best lossless codec, or as what a prediction misses."""

    RAW = "raw"
    CODED = "coded"
    PREDICTED = "predicted"


def codec_of(way: Way) -> codecs.Codec | codecs.Chooser:
    """What tensors that go that way are stored with."""
    return codecs.RAW if way is Way.RAW else codecs.AUTO


class Transfer(NamedTuple):
    """One exchange: whole frames in bytes, and the seconds for which neither side computed or coded."""

    up: int
    down: int
    seconds: float


class Coding(NamedTuple):
    """One call in which a latent travelled and no conditioning.

    Attributes:
        raw_up, raw_down: bytes of its tensors as they are.
        up, down: whole frames.
        coding_s: seconds of both sides together.
    """

    raw_up: int
    raw_down: int
    up: int
    down: int
    coding_s: float


NEAR: Final = LinkSpeed(0.0003, 1e9, 1e9)
"""The guess for an address of this machine, until it shows to be a tunnel's."""

FAR: Final = LinkSpeed(0.02, 5e6, 12.5e6)
"""The guess for any other: 20 ms, 40 Mbit/s up and 100 Mbit/s down."""

# Until calls tell: what is left of the bytes (docs/benchmarks.md), and nanoseconds for each of them, both sides.
_GUESSED = {
    Way.RAW: Coding(1000, 1000, 1000, 1000, 2000 * 0.5e-9),
    Way.CODED: Coding(1000, 1000, 400, 650, 2000 * 4e-9),
    Way.PREDICTED: Coding(1000, 1000, 60, 320, 2000 * 20e-9),
}
# A worker on this machine answers sooner; what takes longer is a tunnel.
_TUNNEL_S = 0.008
# A guess counts as so many calls.
_GUESS_CALLS = 3
_CALLS_COUNTED = 12
# A call says what its way costs for those of about its size. Below that, headers and fixed times are all there is.
_ALIKE = 2
_SMALLEST_BYTES = 8192
# Of the first tensor: where more travels, it is conditioning, which does not come again.
_NOTHING_BESIDES = 1.25
# After as many calls what a way took is forgotten, so that one that did not pay is tried again now and then.
_CALLS_KEPT = 64
_TRANSFERS_KEPT = 32
# An exchange of less says nothing of the rates: it takes what machines and switches take.
_TELLING_BYTES = 16_384
# What an exchange weighs against the one after it, and a guess of the link against the last one.
_FADING = 0.93
_GUESS_WEIGHT = 3e-5
# So many exchanges that all differ from those before them are no accident.
_CHANGED = 3
# Every call gets ready for a moment; one that takes longer has moved weights, and its link has cooled down.
_LOADING_S = 0.1
# A way gains at least this share of what the call takes beyond computing, and this many seconds, or it stays.
_LEAST_SHARE, _LEAST_S = 0.1, 0.002


def seen_in(timings: CallTimings, raw_up: int, raw_down: int) -> tuple[Transfer, Coding]:
    """What a call says of the link, and of its way.

    The worker does not say how long storing the reply took: it is taken to be as fast as this side.
    """
    storing_s = timings.pack_s + timings.encode_s
    worker_s = storing_s * raw_down / max(raw_up, 1)
    up, down = timings.bytes_up, timings.bytes_down
    transfer = Transfer(up, down, max(timings.wire_s - worker_s, timings.wire_s / 10))
    coding_s = storing_s + worker_s + timings.decode_s + timings.worker_decode_s
    return transfer, Coding(raw_up, raw_down, up, down, coding_s)


def link_of(transfers: Sequence[Transfer], guess: LinkSpeed, empty_s: float | None = None) -> LinkSpeed:
    """The link's speed by exchanges, oldest first, and by one of nothing.

    Least squares of relative errors, none of the figures negative. What the exchanges do not tell apart, as with
    equal sizes up and down, stays in the proportions of `guess`. Where the last ones took more than twice as long
    as the others say, or less than half, the link is another one than it was, and they alone count.
    """
    empty = [] if empty_s is None else [Transfer(0, 0, empty_s)]
    found = _fitted([*transfers, *empty], guess)
    last = list(transfers[-_CHANGED:])
    ratios = [each.seconds / max(found.network_s(each.up, each.down), 1e-9) for each in last]
    if len(transfers) > _CHANGED and (min(ratios) > 2 or max(ratios) < 0.5):
        return _fitted([*last, *empty], guess)
    return found


def _fitted(transfers: Sequence[Transfer], guess: LinkSpeed) -> LinkSpeed:
    guessed = np.array([guess.round_trip_s, 1 / guess.up, 1 / guess.down])
    rows, wanted = [_GUESS_WEIGHT * np.eye(3)], [_GUESS_WEIGHT * np.ones(3)]
    for age, transfer in enumerate(reversed(transfers)):
        # In units of the guess, and of the time taken: an error of a tenth counts as much for each.
        row = guessed * (1, transfer.up, transfer.down) / max(transfer.seconds, 1e-6)
        rows.append(_FADING**age * row[None])
        wanted.append(np.array([_FADING**age]))
    found = guessed * _not_negative(np.concatenate(rows), np.concatenate(wanted))
    return LinkSpeed(float(found[0]), *(1 / max(float(each), 1 / FASTEST) for each in found[1:]))


def _not_negative(rows: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The least squares solution among those without a negative number: every choice of zeros is tried."""
    best, least = np.zeros(rows.shape[1]), np.inf
    for used in itertools.product((True, False), repeat=rows.shape[1]):
        chosen = rows[:, used]
        some = np.linalg.solve(chosen.T @ chosen, chosen.T @ wanted)
        missed = float(np.square(wanted - chosen @ some).sum())
        if (some >= 0).all() and missed < least:
            best, least = np.zeros(rows.shape[1]), missed
            best[list(used)] = some
        if all(used) and missed == least:
            break  # without a bound in the way there is no better one
    return best


def cost_of(way: Way, calls: Iterable[Coding], raw_up: int, raw_down: int) -> StepCost:
    """What a call with tensors of so many bytes moves and takes that way, by earlier ones that went so."""
    seen = [_GUESSED[way]] * _GUESS_CALLS + list(calls)[-_CALLS_COUNTED:]
    return StepCost(
        raw_up * statistics.fmean(each.up / max(each.raw_up, 1) for each in seen),
        raw_down * statistics.fmean(each.down / max(each.raw_down, 1) for each in seen),
        # One in which the machine did something else says nothing of the others.
        (raw_up + raw_down)
        * statistics.median(each.coding_s / max(each.raw_up + each.raw_down, 1) for each in seen),
    )


def choose(current: Way, link: LinkSpeed, costs: Mapping[Way, StepCost]) -> Way:
    """The way to go: another one than the current only where that gains clearly."""
    least_s = max(_LEAST_S, _LEAST_SHARE * step_s(0.0, link, costs[current]))
    return Way(fastest(link, {way.value: cost for way, cost in costs.items()}, current.value, least_s))


@dataclass(frozen=True)
class _Seen:
    number: int
    way: Way
    coding: Coding


class CodecChoice:
    """What one session has measured, and the way that it goes by that. Thread-safe.

    Args:
        begin_with: the way until something is measured.
        guess: the link's speed until then.
        ways: those that the worker knows; `begin_with` among them.
    """

    def __init__(self, begin_with: Way, guess: LinkSpeed, ways: Sequence[Way] = tuple(Way)) -> None:
        self._way, self._guess, self._ways = begin_with, guess, tuple(ways)
        self._lock = threading.Lock()
        self._transfers: deque[Transfer] = deque(maxlen=_TRANSFERS_KEPT)
        self._empty_s: float | None = None
        self._seen: deque[_Seen] = deque(maxlen=_CALLS_KEPT)
        self._calls = 0

    @property
    def way(self) -> Way:
        """How tensors travel at present."""
        return self._way

    @property
    def wants_probe(self) -> bool:
        """Whether an exchange of nothing is due, which tells the round trip from what bytes take."""
        return self._calls % _CALLS_KEPT == 0

    def probed(self, seconds: float) -> None:
        """An exchange of next to nothing took so long."""
        with self._lock:
            self._empty_s = seconds
            if seconds > _TUNNEL_S and self._guess == NEAR:
                self._guess = FAR

    def begin(self, raw_up: int) -> Way:
        """The way for a call whose first tensor has so many bytes."""
        with self._lock:
            number = self._calls
            self._calls += 1
            # Often at first; later, what it takes is not worth it for each call.
            if len(self._ways) > 1 and (number < 4 or number % 4 == 0):
                self._decide(raw_up)
            return self._way

    def called(self, way: Way, timings: CallTimings, raw: tuple[int, int, int]) -> None:
        """A call that went that way. `raw`: bytes as they are: its first tensor's, all that went, the reply's."""
        if timings.exchanges != 1 or timings.load_s > _LOADING_S:
            return
        first, up, down = raw
        transfer, coding = seen_in(timings, up, down)
        with self._lock:
            if transfer.up + transfer.down >= _TELLING_BYTES:
                self._transfers.append(transfer)
            if first >= _SMALLEST_BYTES and up <= _NOTHING_BESIDES * first:
                self._seen.append(_Seen(self._calls, way, coding))

    def _decide(self, raw_up: int) -> None:
        alike = [
            each
            for each in self._seen
            if each.number > self._calls - _CALLS_KEPT
            and 1 / _ALIKE <= each.coding.raw_up / max(raw_up, 1) <= _ALIKE
        ]
        raw_down = alike[-1].coding.raw_down if alike else raw_up
        link = link_of(list(self._transfers), self._guess, self._empty_s)
        costs = {
            way: cost_of(way, [each.coding for each in alike if each.way is way], raw_up, raw_down)
            for way in self._ways
        }
        way = choose(self._way, link, costs)
        if way is not self._way:
            self._tell(way, link, costs)
            self._way = way

    def _tell(self, way: Way, link: LinkSpeed, costs: Mapping[Way, StepCost]) -> None:
        logger.info(
            "Tensors travel %s from now on, not %s: %.1f ms a step beyond computing, not %.1f. The link: %.1f ms "
            "there and back, %.0f Mbit/s up, %.0f down.",
            way,
            self._way,
            1e3 * step_s(0.0, link, costs[way]),
            1e3 * step_s(0.0, link, costs[self._way]),
            1e3 * link.round_trip_s,
            8e-6 * link.up,
            8e-6 * link.down,
        )


def choice_for(begin_with: Way | None, known: Collection[str]) -> CodecChoice | None:
    """What chooses among the ways of which the worker, too, knows the codecs; None where nothing is to choose."""
    if begin_with is None:
        return None
    ways = [Way.RAW]
    if set(codecs.used_by(codecs.AUTO)) <= set(known):
        ways.append(Way.CODED)
        if PREDICTED in known:
            ways.append(Way.PREDICTED)
    first = begin_with if begin_with in ways else ways[-1]
    return CodecChoice(first, NEAR if begin_with is Way.RAW else FAR, ways)
