"""The link to a worker, measured several times over one session, and whether something else used it meanwhile."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from functools import cached_property
from time import sleep

from ..client.encoding.link_speed import LinkSpeed, Prober, measure_link
from ..client.encoding.step_time import StepCost
from ..transport.base import Check

_ROUNDS = 3
_FIRST_BYTES = 64 * 1024
# Of one transfer; less than a call's latent is enough to know a slow link's rate.
_TRANSFER_S = 1.0
_LEAST_BYTES = 16 * 1024
# Transfers over a quiet line differ by a few percent. A millisecond is the system's own.
_DISTURBED, _UNTOLD_S = 0.25, 0.002
# Transfers over a connection that idles in between.
_AFTER_PAUSES = 3


@dataclass(frozen=True)
class MeasuredLink:
    """A link's figures, once for each round of measurements.

    Attributes:
        rounds: the figures.
        size_bytes: of the transfers that were measured.
        swing: by what share of the median the seconds of equal exchanges differed at most.
    """

    rounds: tuple[LinkSpeed, ...]
    size_bytes: int
    swing: float

    @cached_property
    def median(self) -> LinkSpeed:
        """Return each figure's median."""
        return LinkSpeed(
            statistics.median(each.round_trip_s for each in self.rounds),
            statistics.median(each.up for each in self.rounds),
            statistics.median(each.down for each in self.rounds),
        )

    @property
    def is_disturbed(self) -> bool:
        """Return whether measurements differ as they do where others use the line, or the machine is busy."""
        return self.swing > _DISTURBED

    def network_times(self, cost: StepCost) -> list[float]:
        """Return the seconds that a call's network takes by each round."""
        return [each.network_s(cost.up_bytes, cost.down_bytes) for each in self.rounds]


class _Recorder:
    """A prober that keeps the seconds of each transfer."""

    def __init__(self, prober: Prober) -> None:
        self._prober = prober
        self.times: dict[tuple[int, int], list[float]] = {}

    def probe(self, up_bytes: int = 0, down_bytes: int = 0, *, check: Check | None = None) -> float:
        """See `Prober`."""
        taken = self._prober.probe(up_bytes, down_bytes, check=check)
        self.times.setdefault((up_bytes, down_bytes), []).append(taken)
        return taken


def measure(prober: Prober, call_bytes: int) -> MeasuredLink:
    """Measure a link over a connection that is kept warm, by transfers of up to a call's bytes.

    Raises:
        OffloadError: the worker cannot be asked.
    """
    size = _size(prober, call_bytes)
    recorder = _Recorder(prober)
    rounds = tuple([measure_link(recorder, size) for _ in range(_ROUNDS)])
    # The first round's beginning fills the connection's window.
    swings = [_swing(times[len(times) // _ROUNDS // 2 + 1 :]) for times in recorder.times.values()]
    return MeasuredLink(rounds, size, max(swings))


def times_after_pauses(prober: Prober, cost: StepCost, pause_s: float) -> list[float]:
    """Return the seconds of exchanges of a call's bytes over a connection that idles for `pause_s` in between.

    Raises:
        OffloadError: the worker cannot be asked.
    """
    times = []
    for _ in range(1 + _AFTER_PAUSES):
        times.append(prober.probe(int(cost.up_bytes), int(cost.down_bytes)))
        sleep(pause_s)
    return times[1:]


def _size(prober: Prober, call_bytes: int) -> int:
    """Return the bytes of transfers that take about a second at most each way, and no more than a call's."""
    empty_s = prober.probe()
    first = min(_FIRST_BYTES, call_bytes)
    slower_s = max(prober.probe(first, 0), prober.probe(0, first)) - min(empty_s, prober.probe())
    return max(min(_LEAST_BYTES, call_bytes), min(call_bytes, int(first * _TRANSFER_S / max(slower_s, 1e-6))))


def _swing(times: list[float]) -> float:
    """Return by what share of the median all but the slowest one differ: one busy moment is no traffic."""
    kept = sorted(times)[:-1]
    differ_s = kept[-1] - kept[0]
    return differ_s / statistics.median(kept) if differ_s > _UNTOLD_S else 0.0
