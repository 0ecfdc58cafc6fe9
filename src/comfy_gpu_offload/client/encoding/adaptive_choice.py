"""The choice of the fastest lossless encoding from what a session has measured.

Each call is a measurement: its exchange says something about the link, its bytes and coding time about its kind of
encoding. The session takes the kind with the shortest step (`step_time`). Guesses stand in for what has not been
measured yet. docs/codecs.md, "What auto measures", has the rules.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from ...io import codecs
from ...protocol.capabilities import PREDICTED
from ..timings import CallTimings
from .link_speed import FAR, NEAR, LinkSpeed, Transfer, estimated_link
from .step_time import CallCost, EncodingKind, StepCost, expected_cost, fastest, step_s

logger = logging.getLogger(__name__)

# A worker on this machine answers sooner; a longer round trip is that of a tunnel.
_TUNNEL_S = 0.008
# A call predicts the cost of calls whose first tensor is at most so many times larger or smaller. Below the least
# size, headers and fixed times are all there is.
_ALIKE = 2
_SMALLEST_BYTES = 8192
# A call that sends more than this times its first tensor brings conditioning, which is not sent again.
_NOTHING_BESIDES = 1.25
# Measurements of a kind are forgotten after so many calls, so that one that did not pay is tried again now and
# then.
_CALLS_KEPT = 64
_TRANSFERS_KEPT = 32
# A smaller exchange says nothing about the rates: it takes what machines and switches take.
_TELLING_BYTES = 16_384
# Every call takes a moment to get ready; one that takes longer has moved weights, and its link has cooled down.
_LOADING_S = 0.1
# The kind changes only for this share of the step's overhead beyond computing, and for so many seconds.
_LEAST_SHARE, _LEAST_S = 0.1, 0.002


def measured_in(timings: CallTimings, raw_up: int, raw_down: int) -> tuple[Transfer, CallCost]:
    """Return what a call's timings say about the link, and about the cost of its encoding.

    `raw_up` and `raw_down` are bytes of its tensors, uncompressed. The worker does not report how long it took to
    encode the reply, so it is taken to be as fast as this side.
    """
    encoding_s = timings.pack_s + timings.encode_s
    worker_s = encoding_s * raw_down / max(raw_up, 1)
    up, down = timings.bytes_up, timings.bytes_down
    transfer = Transfer(up, down, max(timings.wire_s - worker_s, timings.wire_s / 10))
    coding_s = encoding_s + worker_s + timings.decode_s + timings.worker_decode_s
    return transfer, CallCost(raw_up, raw_down, up, down, coding_s)


def choose(current: EncodingKind, link: LinkSpeed, costs: Mapping[EncodingKind, StepCost]) -> EncodingKind:
    """Return the kind of encoding to use: another one than `current` only where that clearly gains."""
    least_s = max(_LEAST_S, _LEAST_SHARE * step_s(0.0, link, costs[current]))
    by_name = {kind.value: cost for kind, cost in costs.items()}
    return EncodingKind(fastest(link, by_name, current.value, least_s))


@dataclass(frozen=True)
class _Measured:
    """The cost of one call, and its number in the session."""

    number: int
    kind: EncodingKind
    cost: CallCost


class AdaptiveChoice:
    """The measurements of one session, and the kind of encoding that follows from them. Thread-safe.

    Args:
        begin_with: the kind until something has been measured.
        guess: the link's speed until then.
        kinds: those that the worker can read; `begin_with` is one of them.
    """

    def __init__(
        self, begin_with: EncodingKind, guess: LinkSpeed, kinds: Sequence[EncodingKind] = tuple(EncodingKind)
    ) -> None:
        self._kind = self._first_kind = begin_with
        self._kinds = tuple(kinds)
        self._first_guess = self._guess = guess
        self._lock = threading.Lock()
        self._transfers: deque[Transfer] = deque(maxlen=_TRANSFERS_KEPT)
        self._empty_s: float | None = None
        self._measured: deque[_Measured] = deque(maxlen=_CALLS_KEPT)
        self._calls = self._probe_due = 0

    @property
    def kind(self) -> EncodingKind:
        """Return the kind of encoding in use."""
        return self._kind

    def takes_probe(self) -> bool:
        """Return whether an empty exchange is due, which tells the round trip from the time that bytes take.

        Once it has said so, it takes the probe for begun.
        """
        with self._lock:
            is_due = self._calls >= self._probe_due
            if is_due:
                self._probe_due = (self._calls // _CALLS_KEPT + 1) * _CALLS_KEPT
            return is_due

    def opened(self, seconds: float | None) -> None:
        """Record how long the connection's opening took, which tells a tunnel until a probe is answered."""
        with self._lock:
            if self._empty_s is None and seconds is not None:
                self._guess_anew(seconds)

    def probed(self, seconds: float) -> None:
        """Record the duration of an empty exchange."""
        with self._lock:
            self._empty_s = seconds
            self._guess_anew(seconds)

    def _guess_anew(self, seconds: float) -> None:
        is_tunnel = seconds > _TUNNEL_S and self._first_guess == NEAR
        self._guess = FAR if is_tunnel else self._first_guess
        if not self._measured:
            # Runs and pictures ask for the kind without a call that decides it: they may be all there is.
            self._kind = self._kinds[-1] if is_tunnel else self._first_kind

    def begin(self, raw_up: int) -> EncodingKind:
        """Return the kind for a call whose first tensor has `raw_up` bytes."""
        with self._lock:
            number = self._calls
            self._calls += 1
            # Every call at first. Later the decision costs more time than a change a few calls sooner would save.
            if len(self._kinds) > 1 and (number < 4 or number % 4 == 0):
                self._decide(raw_up)
            return self._kind

    def observe(self, kind: EncodingKind, timings: CallTimings, raw: tuple[int, int, int]) -> None:
        """Learn from a call of that kind.

        `raw` holds uncompressed bytes: of its first tensor, of all tensors sent, and of the reply's.
        """
        if timings.exchanges != 1 or timings.load_s > _LOADING_S:
            return
        first, up, down = raw
        transfer, cost = measured_in(timings, up, down)
        with self._lock:
            if transfer.up + transfer.down >= _TELLING_BYTES:
                self._transfers.append(transfer)
            if first >= _SMALLEST_BYTES and up <= _NOTHING_BESIDES * first:
                self._measured.append(_Measured(self._calls, kind, cost))

    def coding_s(self, raw_up: int, raw_down: int) -> float:
        """Return the expected seconds of coding, both sides, in a call with so many uncompressed bytes each way."""
        with self._lock:
            calls = [each.cost for each in self._alike(raw_up) if each.kind is self._kind]
            return expected_cost(self._kind, calls, raw_up, raw_down).coding_s

    def _alike(self, raw_up: int) -> list[_Measured]:
        return [
            each
            for each in self._measured
            if each.number > self._calls - _CALLS_KEPT and 1 / _ALIKE <= each.cost.raw_up / max(raw_up, 1) <= _ALIKE
        ]

    def _decide(self, raw_up: int) -> None:
        alike = self._alike(raw_up)
        raw_down = alike[-1].cost.raw_down if alike else raw_up
        link = estimated_link(list(self._transfers), self._guess, self._empty_s)
        costs = {
            kind: expected_cost(kind, [each.cost for each in alike if each.kind is kind], raw_up, raw_down)
            for kind in self._kinds
        }
        kind = choose(self._kind, link, costs)
        if kind is not self._kind:
            self._log_change(kind, link, costs)
            self._kind = kind

    def _log_change(self, kind: EncodingKind, link: LinkSpeed, costs: Mapping[EncodingKind, StepCost]) -> None:
        logger.info(
            "Switching encoding %s → %s: overhead %.1f → %.1f ms/step. Link: round trip %.1f ms, %.0f Mbit/s up, "
            "%.0f Mbit/s down.",
            self._kind,
            kind,
            1e3 * step_s(0.0, link, costs[self._kind]),
            1e3 * step_s(0.0, link, costs[kind]),
            1e3 * link.round_trip_s,
            8e-6 * link.up,
            8e-6 * link.down,
        )


def adaptive_choice(begin_with: EncodingKind | None, known: Collection[str]) -> AdaptiveChoice | None:
    """Return the choice among the encodings that the worker can read; None for a session with a fixed encoding.

    `known` are the worker's codecs and capabilities, as its welcome lists them.
    """
    if begin_with is None:
        return None
    kinds = [EncodingKind.RAW]
    if set(codecs.used_by(codecs.AUTO)) <= set(known):
        kinds.append(EncodingKind.CODED)
        if PREDICTED in known:
            kinds.append(EncodingKind.PREDICTED)
    first = begin_with if begin_with in kinds else kinds[-1]
    return AdaptiveChoice(first, NEAR if begin_with is EncodingKind.RAW else FAR, kinds)
