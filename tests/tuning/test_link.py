from __future__ import annotations

import argparse

import pytest

from comfy_gpu_offload.tuning.link import Link


def test_a_link_is_read_in_milliseconds_and_megabits() -> None:
    assert Link.parse("40/20/100") == Link(0.04, 2.5e6, 12.5e6)
    assert Link.parse("40/20/100/1%") == Link(0.04, 2.5e6, 12.5e6, 0.01)
    assert str(Link.parse("40/20/100/1%")) == "40 ms, 20/100 Mbit/s, 1% of packets lost"


@pytest.mark.parametrize(
    "text",
    [
        *[
            "",
            "40",
            "40/20",
            "40/0/100",
            "-1/20/100",
            "nan/20/100",
            "40/inf/100",
            "40/20/x",
            "40/20/100/1",
            "1/2/3/4/5",
        ],
        *["40/20/100/80%", "40/20/100/%", "40/20/100/-1%", "1e9/20/100"],
    ],
)
def test_what_is_no_link_is_refused_in_a_line_that_says_how_to_write_one(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="give MS/MBIT/MBIT, as 40/20/100"):
        Link.parse(text)


def test_an_exchange_takes_a_round_trip_and_its_bytes() -> None:
    assert Link(0.04, 1e6, 2e6).exchange_s(500_000, 1_000_000) == pytest.approx(1.04)


def test_lost_packets_slow_a_fast_link_and_not_one_that_is_slower_anyway() -> None:
    fast, slow = Link(0.05, 1e8, 1e8), Link(0.05, 1e4, 1e4)
    assert Link(0.05, 1e8, 1e8, 0.01).exchange_s(1e6, 1e6) > 2 * fast.exchange_s(1e6, 1e6)
    assert Link(0.05, 1e4, 1e4, 0.01).exchange_s(1e6, 1e6) == slow.exchange_s(1e6, 1e6)
