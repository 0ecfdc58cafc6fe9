"""KSampler's inputs as a job for a worker, and the reasons why a run has none: by name, with the node."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.comfyui.client.conftest import Sides

from comfy_gpu_offload.errors import UnsupportedValueError

LATENT = {"samples": torch.ones(1, 4, 2, 2)}
CONTEXT = torch.full((1, 2, 8), 0.25)


def runs_in_the_loop(*_: Any, **__: Any) -> None:
    """Stand for a node's function."""


def obstacle(patcher: Any, **changed: Any) -> str | None:
    from comfy_gpu_offload.comfyui.client.sampling.sample_job import whole_loop_obstacle

    given: dict[str, Any] = {"positive": [[CONTEXT, {}]], "negative": [[CONTEXT, {}]], "latent": LATENT}
    names = {"sampler_name": "euler", "scheduler": "normal"}
    given |= names | changed
    return whole_loop_obstacle(patcher, *(given.pop(name) for name in ("positive", "negative", "latent")), **given)


def tree(patcher: Any, positive: Any = None, latent: Any = None, **further: Any) -> dict[str, Any]:
    from comfy_gpu_offload.comfyui.client.sampling.sample_job import job_tree

    return job_tree(patcher, positive or [[CONTEXT, {}]], [[CONTEXT, {}]], latent or LATENT, **further)


def options(**given: Any) -> Callable[[Any], None]:
    return lambda patcher: patcher.model_options.update(given)


PATCHER: dict[str, tuple[Callable[[Any], Any], str]] = {
    "a wrapper": (
        lambda patcher: patcher.wrappers.update(outer_sample={"own": [runs_in_the_loop]}),
        r"own \(test_sample_job: runs_in_the_loop\), whose outer_sample wrapper runs in the sampling loop",
    ),
    "a known wrapper": (
        lambda patcher: patcher.wrappers.update(outer_sample={"easycache": [runs_in_the_loop]}),
        "EasyCache, whose outer_sample wrapper",
    ),
    "a callback without a key": (
        lambda patcher: patcher.callbacks.update(on_pre_run={None: [runs_in_the_loop]}),
        "^test_sample_job: runs_in_the_loop, whose on_pre_run callback",
    ),
    "a wrapper in the options": (
        options(transformer_options={"wrappers": {"apply_model": {"own": [runs_in_the_loop]}}}),
        "whose apply_model wrapper",
    ),
    "a second model": (
        lambda patcher: patcher.additional_models.update(control=[object()]),
        r"a second model that goes with this one \(control\)",
    ),
    "guidance": (
        options(sampler_cfg_function=runs_in_the_loop),
        "test_sample_job: runs_in_the_loop, whose sampler_cfg_function runs in the sampling loop",
    ),
    "context windows": (options(context_handler=object()), "Context Windows, whose context_handler"),
    "an object patch": (
        lambda patcher: patcher.add_object_patch("latent_format", object()),
        r"the object patch on latent_format \(a object\)",
    ),
    "a sampling of a node's own": (
        lambda patcher: patcher.add_object_patch("model_sampling", torch.nn.Identity()),
        "the model's sampling, a .*Identity",
    ),
    "a hook on the network": (
        lambda patcher: patcher.model.diffusion_model.register_forward_pre_hook(runs_in_the_loop),
        "a hook of test_sample_job: runs_in_the_loop, which runs around each call",
    ),
    "a change of the model": (
        lambda patcher: setattr(patcher.model, "process_latent_out", runs_in_the_loop),
        r"the change to the model's process_latent_out \(test_sample_job: runs_in_the_loop\)",
    ),
    "what no mode can send": (
        lambda patcher: patcher.add_object_patch("diffusion_model.layer", torch.nn.Identity()),
        r"the object patch on diffusion_model\.layer",
    ),
}
INPUTS: dict[str, tuple[dict[str, Any], str]] = {
    "a sampler": ({"sampler_name": "somebodys"}, "the sampler somebodys, which is a node pack's own"),
    "a scheduler": ({"scheduler": "somebodys"}, "the scheduler somebodys, which is a node pack's own"),
    "hooks": ({"positive": [[CONTEXT, {"hooks": object()}]]}, "hooks .* in the positive conditioning"),
    "GLIGEN": ({"negative": [[CONTEXT, {"gligen": object()}]]}, "GLIGEN .* in the negative conditioning"),
    "an object": (
        {"positive": [[CONTEXT, {"somebodys": object()}]]},
        r"the positive conditioning\[0\]\[1\]\['somebodys'\] is a .*object",
    ),
    "a ControlNet here": (
        {"positive": [[CONTEXT, {"control": SimpleNamespace(previous_controlnet=None)}]]},
        "a ControlNet that runs here .* in the positive conditioning",
    ),
    "a latent": ({"latent": {"samples": object()}}, "the latent's samples is a .*object"),
    "a mask": ({"latent": LATENT | {"noise_mask": object()}}, "the latent's noise_mask is a"),
}


@pytest.mark.parametrize("name", PATCHER)
def test_what_a_patcher_has_that_runs_in_the_loop_is_named(sides: Sides, name: str) -> None:
    patch, says = PATCHER[name]
    patch(sides.remote)
    found = obstacle(sides.remote)
    assert found is not None
    assert re.search(says, found), found


@pytest.mark.parametrize("name", INPUTS)
def test_what_inputs_have_that_cannot_be_sent_is_named(sides: Sides, name: str) -> None:
    changed, says = INPUTS[name]
    found = obstacle(sides.remote, **changed)
    assert found is not None
    assert re.search(says, found), found


@pytest.mark.parametrize("sampler", ["euler", "ddim", "uni_pc", "uni_pc_bh2"])
def test_an_ordinary_run_has_no_obstacle(sides: Sides, sampler: str) -> None:
    assert obstacle(sides.remote, sampler_name=sampler) is None


def test_data_and_stock_functions_are_no_obstacle(sides: Sides) -> None:
    from comfy_extras.nodes_freelunch import FreeU

    (patched,) = FreeU().patch(sides.remote, 0.5)
    patched.model_options |= {"a number": 3, "a table": {"a": [1.0]}}
    patched.wrappers = {"outer_sample": {"own": []}}
    positive = [[CONTEXT, {"area": (1, 1, 0, 0), "strength": 0.5, "hooks": None, "mask": torch.ones(1, 2, 2)}]]
    assert obstacle(patched, positive=positive) is None


def test_a_sampler_that_a_pack_put_in_a_stock_ones_place_is_named(
    sides: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    import comfy.k_diffusion.sampling
    import comfy.samplers

    own = comfy.k_diffusion.sampling.sample_euler
    for replacement in (runs_in_the_loop, functools.wraps(own)(lambda *_: None)):
        monkeypatch.setattr(comfy.k_diffusion.sampling, "sample_euler", replacement)
        assert obstacle(sides.remote) == "the sampler euler, which is a node pack's own and not ComfyUI's"
    monkeypatch.setattr(comfy.k_diffusion.sampling, "sample_euler", own)
    monkeypatch.setitem(comfy.samplers.SCHEDULER_HANDLERS, "normal", SimpleNamespace(handler=runs_in_the_loop))
    assert obstacle(sides.remote) == "the scheduler normal, which is a node pack's own and not ComfyUI's"


def test_the_tree_of_a_run(sides: Sides) -> None:
    made = tree(sides.remote)
    assert set(made) == {"latent", "positive", "negative"}
    assert made["latent"] is LATENT["samples"]
    assert made["positive"] == [[CONTEXT, {}]]
    noise, sigmas = torch.zeros(1, 4, 2, 2), torch.ones(3)
    latent = LATENT | {"noise_mask": torch.ones(1, 1, 2, 2), "batch_index": (torch.tensor(2), 3)}
    made = tree(sides.remote, latent=latent, noise=noise, sigmas=sigmas)
    assert (made["noise"], made["sigmas"], made["noise_mask"]) == (noise, sigmas, latent["noise_mask"])
    assert made["batch_index"] == [2, 3]


def test_options_and_sampling_are_in_the_tree(sides: Sides) -> None:
    import comfy.model_sampling

    class Sampling(comfy.model_sampling.ModelSamplingDiscreteFlow, comfy.model_sampling.CONST):
        pass

    assert "model_options" not in tree(sides.remote)
    sides.remote.model_options |= {"transformer_options": {"scale": 2.0, "wrappers": {}}, "own": 3}
    sides.remote.add_object_patch("model_sampling", Sampling())
    made = tree(sides.remote)
    assert made["model_options"] == {"own": 3, "transformer_options": {"scale": 2.0}}
    assert made["model_sampling"]["classes"] == ["ModelSamplingDiscreteFlow", "CONST"]


def test_control_nets_are_in_a_table(sides: Sides, comfy_stand_in: Any) -> None:
    from comfy_gpu_offload.comfyui.client.remote_control_net import RemoteControlNet
    from comfy_gpu_offload.comfyui.wire.control_data import PREFIX

    comfy_stand_in.write_control_net("edges.safetensors")
    net = RemoteControlNet(sides.session.model(PREFIX + "edges.safetensors"))
    net.set_cond_hint(torch.ones(1, 3, 8, 8))
    positive = [[CONTEXT, {"control": net, "strength": 0.5}]]
    assert obstacle(sides.remote, positive=positive) is None
    made = tree(sides.remote, positive)
    assert made["positive"][0][1] == {"control": 0, "strength": 0.5}
    assert [entry["net"] for entry in made["control_nets"]] == ["edges.safetensors"]
    assert positive[0][1]["control"] is net


def test_an_empty_latent_gets_the_models_channels(sides: Sides) -> None:
    assert tree(sides.remote, latent={"samples": torch.zeros(1, 2, 2, 2)})["latent"].shape == (1, 4, 2, 2)


def test_an_object_in_the_tree_is_refused(sides: Sides) -> None:
    sides.remote.add_object_patch("model_sampling", torch.nn.Identity())
    with pytest.raises(UnsupportedValueError):
        tree(sides.remote)
