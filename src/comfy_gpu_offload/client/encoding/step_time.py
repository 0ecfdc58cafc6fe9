"""How long a step takes, by what it moves and what coding costs. benchmarks/tune.py holds it to measured steps.

    step = compute + round trip + bytes up / rate up + bytes down / rate down + coding

It holds where the connection is kept warm while the worker computes: else a transfer begins slowly, and takes
longer than its bytes at the link's rate.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ...transport.base import Check
from ..offload_estimate import Prober

# Transfers until a new connection's window has grown, and those that count.
_SETTLING, _COUNTED = 2, 3
FASTEST: Final = 10e9
"""Bytes a second that no link exceeds: a transfer too short to be told from the round trip counts as at that."""


@dataclass(frozen=True)
class LinkSpeed:
    """A link as its user sees it. Seconds, and bytes a second."""

    round_trip_s: float
    up: float
    down: float

    def network_s(self, up_bytes: float, down_bytes: float) -> float:
        """What one exchange of so many bytes takes."""
        return self.round_trip_s + up_bytes / self.up + down_bytes / self.down


@dataclass(frozen=True)
class StepCost:
    """One way to store a call's tensors: whole frames in bytes, and both sides' coding in seconds."""

    up_bytes: float
    down_bytes: float
    coding_s: float


def step_s(compute_s: float, link: LinkSpeed, cost: StepCost) -> float:
    """Seconds of a step."""
    return compute_s + link.network_s(cost.up_bytes, cost.down_bytes) + cost.coding_s


def fastest(link: LinkSpeed, costs: Mapping[str, StepCost], default: str, least_gain: float = 0.0) -> str:
    """The way with the shortest step over that link.

    Args:
        link: what it crosses.
        costs: of each way.
        default: one of them, kept unless another one gains more than `least_gain`.
        least_gain: seconds of a step.
    """
    taken = {name: step_s(0.0, link, cost) for name, cost in costs.items()}
    best = min(taken, key=lambda name: taken[name])
    return best if taken[best] < taken[default] - least_gain else default


def measure_link(prober: Prober, size_bytes: int, check: Check | None = None) -> LinkSpeed:
    """The link's speed, by transfers of so many bytes one after another, each way alone; medians.

    Raises:
        OffloadError: the worker cannot be asked.
    """

    def taken(up: int, down: int) -> float:
        times = [prober.probe(up, down, check=check) for _ in range(_SETTLING + _COUNTED)]
        return statistics.median(times[_SETTLING:])

    round_trip_s = taken(0, 0)
    shortest_s = size_bytes / FASTEST
    up_s, down_s = taken(size_bytes, 0) - round_trip_s, taken(0, size_bytes) - round_trip_s
    return LinkSpeed(round_trip_s, size_bytes / max(up_s, shortest_s), size_bytes / max(down_s, shortest_s))
