"""A link to a worker as figures, and its form on a command line: ``MS/MBIT/MBIT``, as ``40/20/100``."""

from __future__ import annotations

import argparse
import math
import re
from dataclasses import dataclass

_FORM = re.compile(r"([^/]+)/([^/]+)/([^/]+?)(?:/([^/%]+)%)?")
_ADVICE = "give MS/MBIT/MBIT, as 40/20/100, and where packets are lost their share, as 40/20/100/1%"
_MOST_ROUND_TRIP_MS = 10_000
_LEAST_MBIT, _MOST_MBIT = 0.01, 1_000_000
_MOST_LOSS = 50
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

    @classmethod
    def parse(cls, text: str) -> Link:
        """Return the link that ``MS/MBIT/MBIT`` describes: round trip, up, down; a fourth part, as ``1%``, is loss.

        Raises:
            argparse.ArgumentTypeError: it is not of that form, or no link is like that.
        """
        parts = _FORM.fullmatch(text)
        if parts is None:
            raise argparse.ArgumentTypeError(f"{text!r} is no link: {_ADVICE}")
        try:
            return cls(
                _number(parts[1], 0, _MOST_ROUND_TRIP_MS) / 1e3,
                _number(parts[2], _LEAST_MBIT, _MOST_MBIT) * 1e6 / 8,
                _number(parts[3], _LEAST_MBIT, _MOST_MBIT) * 1e6 / 8,
                _number(parts[4] or "0", 0, _MOST_LOSS) / 100,
            )
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentTypeError(f"{text}: {error}; {_ADVICE}") from None

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


def _number(text: str, least: float, most: float) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not least <= value <= most:  # also where it is no number (nan)
        raise argparse.ArgumentTypeError(f"{text} is not from {least:g} to {most:g}")
    return value
