"""The place where Remote Sampler's loop runs, and the reason that the log gives."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.comfyui.client.conftest import Sides

INPUTS: dict[str, Any] = {
    "positive": [[torch.ones(1, 2, 8), {}]],
    "negative": [[torch.ones(1, 2, 8), {}]],
    "latent_image": {"samples": torch.ones(1, 4, 2, 2)},
    "sampler_name": "euler",
    "scheduler": "normal",
    "steps": 20,
    "cfg": 4.0,
}


@pytest.fixture
def estimated(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Record the shapes of runs that are estimated; the answer is each step."""
    estimate = SimpleNamespace(shapes=[], whole_loop=False, summary=lambda: "20 calls")
    monkeypatch.setattr(
        sides.session, "estimate", lambda shape, *_, **__: estimate.shapes.append(shape) or estimate
    )
    return estimate


# One call of it sends less than a job with the same latent, where latents are predicted.
LARGE = {"steps": 1, "latent_image": {"samples": torch.ones(1, 4, 64, 64)}}


@pytest.fixture
def predicted(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> tuple[float, float]:
    """Return the shares of a call's latents that are sent by a session that predicts them."""
    monkeypatch.setattr(type(sides.session), "call_shares", (0.2, 0.3))
    return 0.2, 0.3


def runs_whole(sides: Sides, offload: str = "auto", **changed: Any) -> bool:
    from comfy_gpu_offload.comfyui.client.sampling import offload_mode

    return offload_mode.runs_whole(sides.remote, offload, INPUTS | changed)


@pytest.fixture(autouse=True)
def _logged(caplog: Any) -> None:
    caplog.set_level(logging.INFO)


def of_another_release(sides: Sides) -> None:
    from comfy_gpu_offload.comfyui.client.remote_state import record_of

    record_of(sides.remote.model).worker_release = "0.99"


@pytest.mark.parametrize(("offload", "whole"), [("whole loop", True), ("each step", False)])
def test_a_choice_is_obeyed_without_a_question(sides: Sides, estimated: Any, offload: str, whole: bool) -> None:
    assert runs_whole(sides, offload, positive=object()) is whole
    assert estimated.shapes == []


@pytest.mark.usefixtures("predicted")
def test_auto_takes_the_faster(sides: Sides, estimated: Any, caplog: Any) -> None:
    assert runs_whole(sides, **LARGE) is False
    estimated.whole_loop = True
    assert runs_whole(sides, **LARGE) is True
    assert caplog.text.count("20 calls") == 2


def test_auto_measures_nothing_where_the_job_is_no_larger_than_its_calls(
    sides: Sides, estimated: Any, caplog: Any
) -> None:
    assert runs_whole(sides) is True
    assert estimated.shapes == []
    assert "no more than 20 calls" in caplog.text


def test_auto_estimates_the_bytes_of_both_ways(
    sides: Sides, estimated: Any, predicted: tuple[float, float]
) -> None:
    runs_whole(sides, **LARGE)
    runs_whole(sides, **LARGE, cfg=1.0)
    runs_whole(sides, steps=1, latent_image={"samples": torch.zeros(1, 4, 64, 64)})
    both, one, empty = estimated.shapes
    up, down = predicted
    call_bytes = 2 * 4 * 64 * 64 * sides.remote.remote.dtype.itemsize
    assert (both.calls, both.call_up) == (1, int(call_bytes * up) + 1024)
    assert both.call_down == int(call_bytes * down) + 1024
    assert one.call_up == int(call_bytes / 2 * up) + 1024
    assert (both.job_up, empty.job_up) == (both.job_down, 1024)


def test_auto_takes_each_step_where_something_runs_in_the_loop(sides: Sides, estimated: Any, caplog: Any) -> None:
    sides.remote.model_options["context_handler"] = object()
    assert runs_whole(sides) is False
    assert "because the whole loop cannot go to the worker: Context Windows" in caplog.text
    assert estimated.shapes == []


def test_auto_takes_each_step_with_another_release(sides: Sides, estimated: Any, caplog: Any) -> None:
    of_another_release(sides)
    assert runs_whole(sides) is False
    assert "Offloading each step, because ComfyUI is 0.0.0+stand-in here and 0.99 at the worker" in caplog.text
    assert runs_whole(sides, "whole loop") is True
    assert "Offloading the whole loop, although ComfyUI is" in caplog.text


def test_auto_takes_each_step_where_a_pack_replaced_the_sampling(sides: Sides, estimated: Any, caplog: Any) -> None:
    from comfy_gpu_offload.comfyui.client.changes.network_parts import Change
    from comfy_gpu_offload.comfyui.client.remote_state import record_of

    code = record_of(sides.remote.model).as_loaded._code
    code.__dict__["foreign"] = (Change("comfy.samplers.sample", runs_whole),)
    assert runs_whole(sides) is False
    assert "a node pack has replaced comfy.samplers.sample (test_offload_mode: runs_whole)" in caplog.text


def test_auto_takes_the_whole_loop_where_noise_is_drawn_on_the_device(
    sides: Sides, estimated: Any, caplog: Any
) -> None:
    assert runs_whole(sides, sampler_name="euler_ancestral") is True
    assert "euler_ancestral draws its noise where it runs" in caplog.text
    assert estimated.shapes == []


@pytest.mark.parametrize(
    ("sampler", "draws"),
    [
        ("euler", False),
        ("dpmpp_2m", False),
        ("dpmpp_2m_sde", False),
        ("dpmpp_2m_sde_gpu", True),
        ("euler_ancestral", True),
        ("euler_ancestral_cfg_pp", True),
        ("seeds_2", True),
        ("lcm", True),
    ],
)
@pytest.mark.usefixtures("comfy_stand_in")
def test_samplers_that_draw_noise_on_the_device(sampler: str, draws: bool) -> None:
    from comfy_gpu_offload.comfyui.client.sampling.offload_mode import draws_noise_on_its_device

    assert draws_noise_on_its_device(sampler) is draws
