"""The model of a step's time."""

from __future__ import annotations

import pytest

from comfy_gpu_offload.client.encoding.link_speed import LinkSpeed
from comfy_gpu_offload.client.encoding.step_time import StepCost, fastest, step_s

LINK = LinkSpeed(round_trip_s=0.04, up=2.5e6, down=12.5e6)
RAW = StepCost(500_000, 500_000, 0.001)
SMALL = StepCost(50_000, 200_000, 0.02)


def test_a_step_is_compute_and_round_trip_and_bytes_and_coding() -> None:
    assert step_s(0.6, LINK, RAW) == pytest.approx(0.6 + 0.04 + 0.2 + 0.04 + 0.001)


def test_the_fastest_way_depends_on_the_link() -> None:
    costs = {"raw": RAW, "small": SMALL}
    assert fastest(LINK, costs, default="raw") == "small"
    assert fastest(LinkSpeed(0.001, 1e9, 1e9), costs, default="small") == "raw"


def test_a_small_gain_does_not_change_the_default() -> None:
    costs = {"raw": StepCost(1000, 1000, 0.0), "small": StepCost(900, 1000, 0.0)}
    assert fastest(LINK, costs, default="raw") == "small"
    assert fastest(LINK, costs, default="raw", least_gain=0.001) == "raw"
