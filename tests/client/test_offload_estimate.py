from __future__ import annotations

from dataclasses import replace

import pytest

from comfy_gpu_offload.client.offload_estimate import OffloadEstimator, RunShape, calls_of, compute_of
from comfy_gpu_offload.client.timings import CallTimings


class Link:
    """A link of that round trip and rate, in seconds and bytes a second."""

    def __init__(self, round_trip_s: float, rate: float) -> None:
        self.round_trip_s, self.rate = round_trip_s, rate
        self.probes = 0

    def probe(self, up_bytes: int = 0, down_bytes: int = 0, *, check: object = None) -> float:
        self.probes += 1
        return self.round_trip_s + (up_bytes + down_bytes) / self.rate


SHAPE = RunShape(calls=20, call_up=1_000_000, call_down=1_000_000, job_up=1_000_000, job_down=1_000_000)


def test_a_round_trip_a_call_is_what_each_step_costs_more() -> None:
    estimate = OffloadEstimator(Link(0.1, 1e12)).estimate(SHAPE, compute_s=0.5)
    assert estimate.each_step_s == pytest.approx(20 * 0.6, rel=0.01)
    assert estimate.whole_loop_s == pytest.approx(20 * 0.5 + 0.1, rel=0.01)
    assert estimate.whole_loop


def test_coding_counts_for_each_call_and_not_for_the_job() -> None:
    shape = replace(SHAPE, coding_s=0.02)
    estimate = OffloadEstimator(Link(0.1, 1e12)).estimate(shape, compute_s=0.5)
    assert estimate.each_step_s == pytest.approx(20 * 0.62, rel=0.01)
    assert estimate.whole_loop_s == pytest.approx(20 * 0.5 + 0.1, rel=0.01)


def test_a_job_larger_than_all_its_calls_is_better_done_in_calls() -> None:
    shape = RunShape(calls=2, call_up=1000, call_down=1000, job_up=50_000_000, job_down=1000)
    estimate = OffloadEstimator(Link(0.01, 1e6)).estimate(shape, compute_s=0.1)
    assert not estimate.whole_loop
    assert "each step" in estimate.summary()


def test_a_job_that_sends_no_more_than_all_calls_is_not_measured_for() -> None:
    assert SHAPE.is_smaller_as_job
    assert RunShape(2, 500, 500, 1000, 1000).is_smaller_as_job
    assert not RunShape(2, 499, 500, 1000, 1000).is_smaller_as_job
    assert not RunShape(2, 500, 499, 1000, 1000).is_smaller_as_job


def test_without_a_known_compute_time_the_network_decides_and_it_is_said() -> None:
    estimate = OffloadEstimator(Link(0.1, 1e9)).estimate(SHAPE, compute_s=None)
    assert estimate.whole_loop
    assert "not known yet" in estimate.summary()


def test_sizes_alike_are_measured_once() -> None:
    link = Link(0.01, 1e9)
    estimator = OffloadEstimator(link)
    estimator.estimate(SHAPE, 0.1)
    probes = link.probes
    estimator.estimate(RunShape(50, 990_000, 1_010_000, 990_000, 1_010_000), 0.1)
    assert link.probes == probes


@pytest.mark.parametrize(("sampler", "calls"), [("euler", 20), ("heun", 39), ("dpmpp_sde", 39), ("uni_pc", 20)])
def test_samplers_call_the_model_as_often_as_they_do(sampler: str, calls: int) -> None:
    assert calls_of(sampler, 20) == calls


def test_compute_is_the_last_calls_median() -> None:
    assert compute_of([]) is None
    timings = [CallTimings(compute_s=second) for second in (9.0, 0.0, 0.2, 0.3, 0.25)]
    assert compute_of(timings) == pytest.approx(0.275)
