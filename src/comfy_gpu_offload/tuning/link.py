"""A link to a worker as figures, and the seconds that exchanges take over it."""

from __future__ import annotations

import math
from dataclasses import dataclass

_SEGMENT_BYTES = 1460
# The rate of one TCP connection that loses a share p of its segments: 1.22 segments a round trip over the root of p
# (Mathis et al., "The macroscopic behavior of the TCP congestion avoidance algorithm", 1997). Of Reno; CUBIC is
# faster over long links, so this errs on the slow side there.
_MATHIS = 1.22


@dataclass(frozen=True)
class Link:
    """The figures of a link.

    Attributes:
        round_trip_s: seconds.
        up_bytes_s, down_bytes_s: bytes a second, from here to the worker and back.
        loss: share of packets that get lost, from 0 to 0.5.
    """

    round_trip_s: float
    up_bytes_s: float
    down_bytes_s: float
    loss: float = 0.0

    def __str__(self) -> str:
        lost = f", {self.loss * 100:g}% of packets lost" if self.loss else ""
        return (
            f"{self.round_trip_s * 1e3:g} ms, {self.up_bytes_s * 8e-6:g}/{self.down_bytes_s * 8e-6:g} Mbit/s{lost}"
        )

    def ideal_s(self, up_bytes: float, down_bytes: float) -> float:
        """Return the least seconds that one exchange of so many bytes can take, if nothing is lost."""
        return self.round_trip_s + up_bytes / self.up_bytes_s + down_bytes / self.down_bytes_s

    def exchange_s(self, up_bytes: float, down_bytes: float) -> float:
        """Return the seconds of one exchange over a connection that is kept warm, lost packets counted."""
        return (
            self.round_trip_s
            + up_bytes / self._with_loss(self.up_bytes_s)
            + down_bytes / self._with_loss(self.down_bytes_s)
        )

    def _with_loss(self, rate: float) -> float:
        if not self.loss or not self.round_trip_s:
            return rate
        return min(rate, _MATHIS * _SEGMENT_BYTES / (self.round_trip_s * math.sqrt(self.loss)))
