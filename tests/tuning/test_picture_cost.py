from __future__ import annotations

from dataclasses import replace

import pytest

from comfy_gpu_offload.tuning.gpus import GPUS, OWN
from comfy_gpu_offload.tuning.link import Link
from comfy_gpu_offload.tuning.models import MODELS
from comfy_gpu_offload.tuning.picture_cost import PictureCost, Plan, Way, costs

FLUX = Plan(
    model=MODELS["flux"],
    gpu=GPUS["4090"],
    link=Link(0.04, 2.5e6, 12.5e6),
    sampler="euler",
    steps=20,
    dollars_an_hour=3.6,
    own=OWN["cpu"],
    compute_s=0.6,
)


def by_way(plan: Plan) -> dict[Way, PictureCost]:
    return {cost.way: cost for cost in costs(plan)}


def test_a_step_of_flux_takes_what_was_measured() -> None:
    # docs/benchmarks.md: 689 ms a settled step with `auto` and 0.6 s of compute, over an emulated link.
    assert by_way(FLUX)[Way.EACH_STEP].next_s / 20 == pytest.approx(0.689, rel=0.05)


def test_an_empty_latent_is_not_charged_for_and_a_picture_is() -> None:
    empty, begun = by_way(FLUX)[Way.WHOLE_LOOP], by_way(replace(FLUX, is_empty=False))[Way.WHOLE_LOOP]
    assert empty.up < 2000
    assert begun.up > 800_000
    assert begun.next_s - empty.next_s == pytest.approx((begun.up - empty.up) / 2.5e6)


def test_new_noise_in_each_step_costs_each_step_and_not_the_whole_loop() -> None:
    deterministic, ancestral = by_way(FLUX), by_way(replace(FLUX, sampler="euler_ancestral"))
    assert ancestral[Way.EACH_STEP].up > 5 * deterministic[Way.EACH_STEP].up
    assert ancestral[Way.EACH_STEP].next_s > deterministic[Way.EACH_STEP].next_s + 1
    assert ancestral[Way.WHOLE_LOOP] == deterministic[Way.WHOLE_LOOP]


def test_dollars_are_of_the_seconds_and_of_idle_and_start_once() -> None:
    each = by_way(replace(FLUX, cold=False, idle_s=100))[Way.WHOLE_LOOP]
    assert each.next_dollars == pytest.approx(each.next_s * 0.001)
    assert each.first_dollars == pytest.approx((each.first_s + 100) * 0.001)
    cold = by_way(replace(FLUX, cold=True, idle_s=100))[Way.WHOLE_LOOP]
    assert cold.first_dollars > each.first_dollars
    assert cold.first_s == each.first_s


def test_prompts_that_the_worker_encodes_take_no_time_on_a_slow_line() -> None:
    near = by_way(FLUX)[Way.WHOLE_LOOP]
    assert near.first_s - near.next_s > 1
    remote = by_way(replace(FLUX, remote_prompts=True))[Way.WHOLE_LOOP]
    assert remote.first_s - remote.next_s < 0.2


def test_a_machine_of_its_own_pays_nothing_and_sends_nothing() -> None:
    own = by_way(FLUX)[Way.OWN]
    assert (own.up, own.down, own.first_dollars) == (0, 0, 0.0)
    assert own.next_s == pytest.approx(20 * OWN["cpu"].call_s(FLUX.model))
    assert Way.OWN not in by_way(replace(FLUX, own=None))
