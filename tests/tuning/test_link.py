from __future__ import annotations

import pytest

from comfy_gpu_offload.tuning.link import Link


def test_a_link_is_told_in_milliseconds_and_megabits() -> None:
    assert str(Link(0.04, 2.5e6, 12.5e6, 0.01)) == "40 ms, 20/100 Mbit/s, 1% of packets lost"


def test_an_exchange_takes_a_round_trip_and_its_bytes() -> None:
    assert Link(0.04, 1e6, 2e6).exchange_s(500_000, 1_000_000) == pytest.approx(1.04)


def test_lost_packets_slow_a_fast_link_and_not_one_that_is_slower_anyway() -> None:
    fast, slow = Link(0.05, 1e8, 1e8), Link(0.05, 1e4, 1e4)
    assert Link(0.05, 1e8, 1e8, 0.01).exchange_s(1e6, 1e6) > 2 * fast.exchange_s(1e6, 1e6)
    assert Link(0.05, 1e4, 1e4, 0.01).exchange_s(1e6, 1e6) == slow.exchange_s(1e6, 1e6)
