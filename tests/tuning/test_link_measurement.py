"""A link's figures from probes, and other traffic noticed."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import cycle, repeat

import pytest

from comfy_gpu_offload.client.encoding.step_time import StepCost
from comfy_gpu_offload.transport.base import Check
from comfy_gpu_offload.tuning.link_measurement import measure

ROUND_TRIP_S = 0.04


class Line:
    """A line of 40 ms whose rate is divided by each of `shared` in turn."""

    def __init__(self, up: float, down: float, shared: Iterable[float]) -> None:
        self.largest = 0
        self._up, self._down, self._shared = up, down, iter(shared)

    def probe(self, up_bytes: int = 0, down_bytes: int = 0, *, check: Check | None = None) -> float:
        self.largest = max(self.largest, up_bytes, down_bytes)
        return ROUND_TRIP_S + (up_bytes / self._up + down_bytes / self._down) * next(self._shared)


def test_a_quiet_line_gives_its_figures() -> None:
    link = measure(Line(2.5e6, 12.5e6, repeat(1)), 524_288)
    assert not link.is_disturbed
    assert link.median.round_trip_s == pytest.approx(ROUND_TRIP_S)
    assert (link.median.up, link.median.down) == (pytest.approx(2.5e6), pytest.approx(12.5e6))
    assert link.network_times(StepCost(2.5e4, 12.5e4, 0.0)) == [pytest.approx(0.06)] * 3


def test_other_traffic_is_noticed() -> None:
    assert measure(Line(2.5e6, 12.5e6, cycle([1, 1, 2])), 524_288).is_disturbed


def test_a_slow_line_is_measured_by_transfers_of_about_a_second() -> None:
    line = Line(1e5, 1e6, repeat(1))
    measure(line, 8_000_000)
    assert line.largest == pytest.approx(1e5, rel=0.05)
