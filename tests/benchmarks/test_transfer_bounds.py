from __future__ import annotations

from dataclasses import replace
from typing import Any


def held(*others: dict[str, Any], **changes: Any) -> list[bool]:
    import arguments
    import transfer_vs_compute
    from each_step_runs import Run

    link = arguments.link("40/20/100")
    row = Run(
        model=transfer_vs_compute.MODELS["flux"].title,
        link=str(link),
        through="direct",
        way="auto",
        lossless=True,
        steps=10,
        compute_s=0.6,
        first_s=2.0,
        step_s=0.68,
        whole_s=7.0,
        network_s=0.08,
        coding_s=0.01,
        bytes_up=30_000,
        bytes_down=125_000,
        limit_s=0.66,
        ratio=1.03,
        gain=40.0,
        equal=True,
    )
    row = replace(row, **changes)
    return [bound.held for bound in transfer_vs_compute._bounds([row, *(replace(row, **each) for each in others)])]


def test_a_flux_step_is_held_to_two_round_trips_and_the_reply_and_to_the_naive_stack() -> None:
    assert held() == [True, True, True]
    assert held(network_s=0.0899) == [True, True, True]
    assert held(network_s=0.0901) == [True, False, True]
    assert held(gain=29.9) == [True, True, False]


def test_a_lossless_run_that_ends_elsewhere_holds_nothing() -> None:
    assert held(equal=False)[0] is False


def test_a_step_through_a_proxy_is_held_to_five_percent_of_a_direct_one() -> None:
    assert held({"through": "nginx", "step_s": 0.713})[3] is True
    assert held({"through": "nginx", "step_s": 0.715})[3] is False
    assert len(held({"through": "nginx", "way": "raw"})) == 3


def test_other_links_ways_and_compute_are_held_to_nothing() -> None:
    assert held(link="50 ms, 100/100 Mbit/s", network_s=1.0) == [True]
    assert held(way="raw", network_s=1.0) == [True]
    assert held(compute_s=0.1, network_s=1.0) == [True]
