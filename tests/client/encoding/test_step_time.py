"""The model of a step's time, and the link's speed that goes into it."""

from __future__ import annotations

import pytest

from comfy_gpu_offload.client.encoding.step_time import LinkSpeed, StepCost, fastest, measure_link, step_s

LINK = LinkSpeed(round_trip_s=0.04, up=2.5e6, down=12.5e6)
RAW = StepCost(500_000, 500_000, 0.001)
SMALL = StepCost(50_000, 200_000, 0.02)


class Probed:
    """A link that answers as `LINK` would, its first transfers each way slowly, as a new connection's are."""

    def __init__(self, link: LinkSpeed, slow: int = 0) -> None:
        self.link, self.slow = link, slow
        self.seen: dict[tuple[int, int], int] = {}

    def probe(self, up_bytes: int = 0, down_bytes: int = 0, *, check: object = None) -> float:
        times = self.seen[up_bytes, down_bytes] = self.seen.get((up_bytes, down_bytes), 0) + 1
        return self.link.network_s(up_bytes, down_bytes) * (3 if times <= self.slow else 1)


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


def test_a_link_is_measured_as_it_is_once_its_connection_has_settled() -> None:
    found = measure_link(Probed(LINK, slow=2), 500_000)
    assert found.round_trip_s == pytest.approx(LINK.round_trip_s)
    assert found.up == pytest.approx(LINK.up)
    assert found.down == pytest.approx(LINK.down)


def test_a_transfer_no_longer_than_the_round_trip_gives_a_rate_all_the_same() -> None:
    class Instant:
        def probe(self, up_bytes: int = 0, down_bytes: int = 0, *, check: object = None) -> float:
            return 0.01 if not up_bytes and not down_bytes else 0.009

    found = measure_link(Instant(), 1000)
    assert 0 < found.network_s(1000, 1000) < 0.011
