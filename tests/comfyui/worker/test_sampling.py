"""Whole sampling runs on a stand-in for ComfyUI: arguments, progress, ControlNets, and jobs that are refused."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from PIL import Image
from tests.support.comfy_stand_in.fixtures import StandIn

from comfy_gpu_offload.backends.base import InterruptedCallError, ModelRunError, PatchSet
from comfy_gpu_offload.comfyui.wire.control_data import PREFIX
from comfy_gpu_offload.io.digests import digest
from comfy_gpu_offload.protocol.messages import ModelRef, SampleJob

MODEL = ModelRef(name="one.safetensors")
LATENT = torch.zeros(2, 4, 3, 5)


@pytest.fixture(autouse=True)
def runs(comfy_stand_in: StandIn) -> Iterator[list[dict[str, Any]]]:
    """Give the arguments of the runs that ComfyUI was asked for."""
    import comfy.sample

    comfy_stand_in.write_model(MODEL.name)
    comfy.sample.runs.clear()
    yield comfy.sample.runs
    comfy.sample.runs.clear()


def job(backend: Any, **changes: Any) -> SampleJob:
    given = {
        "request": "r" * 16,
        "client": "c" * 16,
        "reply_codec": "raw",
        "model": MODEL,
        "fingerprint": backend.describe(MODEL).description.fingerprint,
        "sampler": "euler",
        "scheduler": "simple",
        "steps": 3,
        "cfg": 2.0,
        "denoise": 1.0,
        "seed": 5,
    }
    return SampleJob(**{**given, **changes})


def tree(**changes: Any) -> dict[str, Any]:
    sides = {
        "positive": [[torch.full((1, 2, 4), 0.3), {}]],
        "negative": [[torch.full((1, 2, 4), 0.1), {"strength": 0.5}]],
    }
    return {"latent": LATENT, **sides, **changes}


def sampled(backend: Any, parts: Any = None, report: Any = lambda *_: None, **changes: Any) -> Any:
    patches = changes.pop("patches", None)
    given = tree() if parts is None else parts
    return backend.sample(job(backend, **changes), given, report, patches=patches).result


def test_a_jobs_arguments_reach_comfyui(backend: Any, runs: list[dict[str, Any]]) -> None:
    sampled(backend, sampler="heun", scheduler="normal", start_step=1, last_step=2, force_full_denoise=True, seed=9)
    (run,) = runs
    expected = {"sampler_name": "heun", "scheduler": "normal", "steps": 3, "cfg": 2.0, "seed": 9, "denoise": 1.0}
    expected |= {
        "start_step": 1,
        "last_step": 2,
        "force_full_denoise": True,
        "disable_noise": False,
        "sigmas": None,
    }
    assert {name: run[name] for name in expected} == expected
    assert run["negative"][0][1] == {"strength": 0.5}


def test_a_run_is_what_it_is_when_the_loop_runs_elsewhere(backend: Any) -> None:
    import comfy.sample

    result = sampled(backend)
    loaded, _ = backend.pool.load(MODEL)
    noise = comfy.sample.prepare_noise(LATENT, 5)
    again = comfy.sample.sample(
        *(loaded.patcher, noise, 3, 2.0, "euler", "simple", tree()["positive"], tree()["negative"], LATENT), seed=5
    )
    assert torch.equal(result, again)
    assert not torch.equal(result, sampled(backend, seed=6))


def test_noise_comes_from_the_job_or_from_its_seed(backend: Any) -> None:
    own = torch.full_like(LATENT, 2.0)
    given = sampled(backend, tree(noise=own))
    none = sampled(backend, disable_noise=True)
    assert not torch.equal(given, sampled(backend))
    assert torch.equal(none, sampled(backend, tree(noise=torch.zeros_like(LATENT))))


def test_sigmas_are_a_copy(backend: Any, runs: list[dict[str, Any]]) -> None:
    sigmas = torch.tensor([1.0, 0.5, 0.0])
    sampled(backend, tree(sigmas=sigmas))
    assert torch.equal(runs[0]["sigmas"], sigmas)
    assert runs[0]["sigmas"] is not sigmas


def test_options_and_a_models_sampling_are_on_for_one_run(backend: Any, runs: list[dict[str, Any]]) -> None:
    import comfy.model_sampling

    from comfy_gpu_offload.comfyui.wire.model_sampling import describe_sampling

    kind = type("Patched", (comfy.model_sampling.ModelSamplingDiscreteFlow, comfy.model_sampling.CONST), {})
    kind.__qualname__ = "patch.<locals>.Patched"
    shifted = kind()
    shifted.set_parameters(shift=3.0)
    inner = {"cond_or_uncond": [0], "sigma_limit": 3.0}
    options = {"sampler_note": 1, "transformer_options": inner}
    plain = sampled(backend)
    sampled(backend, tree(model_sampling=describe_sampling(shifted), model_options=options))
    used = runs[-1]["patcher"]
    assert used.get_model_object("model_sampling").shift == 3.0
    assert used.model_options["sampler_note"] == 1
    assert used.model_options["transformer_options"] == inner
    assert backend.pool.load(MODEL)[0].patcher.model.model_sampling.shift == 1.0
    assert torch.equal(sampled(backend), plain)


def test_weight_patches_are_on_for_one_run(backend: Any) -> None:
    change = torch.ones(4, 4)
    entry = [0, "diff", [digest(change), False], None, None]
    template = {"diffusion_model.layer.weight": [entry]}
    patches = PatchSet(bytes(32), template, ((0.5, 1.0),), {digest(change): change})
    plain = sampled(backend)
    assert not torch.equal(sampled(backend, patches=patches), plain)
    assert torch.equal(sampled(backend), plain)


def test_progress_is_told_with_a_picture(backend: Any) -> None:
    told: list[Any] = []
    sampled(backend, report=lambda *args: told.append((*args[:2], args[2]())), preview="auto", steps=2)
    assert [each[:2] for each in told] == [(1, 2), (2, 2)]
    picture = Image.open(io.BytesIO(told[0][2]))
    assert (picture.format, picture.size) == ("JPEG", (5, 3))
    told.clear()
    sampled(backend, report=lambda *args: told.append(args[2]()), preview="none", steps=1)
    assert told == [None]


def test_a_run_ends_at_the_step_after_a_cancel(backend: Any) -> None:
    told: list[int] = []

    def report(step: int, *_: Any) -> None:
        told.append(step)
        backend.interrupt()

    with pytest.raises(InterruptedCallError):
        sampled(backend, report=report)
    assert told == [1]
    backend.clear_interrupt()
    sampled(backend)


def control(backend: Any, stand_in: StandIn, name: str, scale: float, **changes: Any) -> dict[str, Any]:
    stand_in.write_control_net(name, scale)
    found = backend.describe(ModelRef(name=PREFIX + name))
    fields = {"net": name, "fingerprint": found.description.fingerprint, "strength": 1.0, "control_type": None}
    picture = {"hint": torch.full((1, 3, 8, 8), 51, dtype=torch.uint8), "encoded": False, "masks": []}
    return {**fields, **picture, "start": 0.0, "end": 1.0, "previous": None, **changes}


def test_a_runs_control_nets_are_built_in_their_order(
    comfy_stand_in: StandIn, backend: Any, runs: list[dict[str, Any]]
) -> None:
    table = [
        control(backend, comfy_stand_in, "depth.safetensors", 10.0, start=0.2, end=0.7),
        control(backend, comfy_stand_in, "edges.safetensors", 1.0, strength=0.5, control_type=[3], previous=0),
    ]
    positive = [[torch.zeros(1, 2, 4), {"control": 1, "strength": 0.9}], [torch.zeros(1, 2, 4), {}]]
    result = sampled(backend, tree(positive=positive, control_nets=table))
    (_, options), (_, others) = runs[-1]["positive"]
    net = options["control"]
    assert (others, options["strength"], net.strength, net.extra_args) == ({}, 0.9, 0.5, {"control_type": [3]})
    before = net.previous_controlnet
    assert (float(before.control_model.scale), before.timestep_percent_range) == (10.0, (0.2, 0.7))
    assert before.previous_controlnet is None
    assert not torch.equal(result, sampled(backend, tree(positive=[[torch.zeros(1, 2, 4), {}]] * 2)))


def test_errors_of_a_net_in_a_run_name_it(comfy_stand_in: StandIn, backend: Any) -> None:
    table = [control(backend, comfy_stand_in, "edges.safetensors", 1.0)]
    wide = [[torch.zeros(1, 2, 101), {"control": 0}]]
    with pytest.raises(ModelRunError, match=r"The ControlNet 'edges\.safetensors' raised RuntimeError"):
        sampled(backend, tree(positive=wide, control_nets=table))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sampler": "nosuch"}, "no sampler 'nosuch': choose one of euler, heun"),
        ({"scheduler": "nosuch"}, "no scheduler 'nosuch'"),
        ({"preview": "nosuch"}, "no preview method 'nosuch'"),
    ],
)
def test_names_that_comfyui_does_not_know_are_refused(backend: Any, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelRunError, match=said):
        sampled(backend, **changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"surprise": 1}, "knows no 'surprise'"),
        ({"latent": None}, "The latent of the run"),
        ({"latent": torch.zeros(4)}, "The latent of the run"),
        ({"latent": torch.zeros(1, 4, 2, 2, dtype=torch.int64)}, "The latent of the run"),
        ({"positive": [[torch.zeros(1)]]}, "The positive of the run"),
        ({"negative": [[torch.zeros(1), {"hooks": 1}]]}, "The negative of the run"),
        ({"negative": [[torch.zeros(1), {"control": -1}]]}, "The negative of the run"),
        ({"negative": [[torch.zeros(1), {"control": 0}]]}, "names a ControlNet that is not there"),
        ({"control_nets": {"0": 1}}, "The control_nets of the run"),
        ({"noise_mask": torch.zeros(1)}, "The noise_mask of the run"),
        ({"batch_index": [1, -1]}, "The batch_index of the run"),
        ({"batch_index": [70_000]}, "The batch_index of the run"),
        ({"sigmas": torch.zeros(2, 2)}, "The sigmas of the run"),
        ({"sigmas": torch.zeros(100_000)}, "The sigmas of the run"),
        ({"model_sampling": 3}, "The model_sampling of the run"),
        ({"model_options": {"sampler_own_function": 1}}, "The model_options of the run"),
        ({"model_options": {"transformer_options": {"wrappers": {}}}}, "The model_options of the run"),
        ({"latent": {"__comfyui__": "os.system", "tensors": []}}, "not of a form known here"),
    ],
)
def test_a_tree_that_is_none_is_refused_by_its_part(
    backend: Any, runs: list[dict[str, Any]], changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ModelRunError, match=said):
        sampled(backend, tree(**changes))
    assert runs == []
