"""Changes of a model outside of its network are noticed, and ComfyUI's own notes on it are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.support.comfy_stand_in.fixtures import StandIn


@pytest.fixture
def model(comfy_stand_in: StandIn) -> Any:
    import comfy.sd

    patcher = comfy.sd.load_diffusion_model(str(comfy_stand_in.write_model("model.safetensors")))
    assert patcher is not None
    return patcher.model


def state_of(model: Any) -> Any:
    from comfy_gpu_offload.comfyui.client.changes.model_state import ModelState

    return ModelState(model)


def write_to_sigmas(model: Any) -> None:
    model.model_sampling.sigmas[0] = 0.5


CHANGES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "a method": (lambda model: setattr(model, "process_latent_out", abs), "process_latent_out"),
    "an object": (lambda model: setattr(model, "latent_format", object()), "latent_format"),
    "the sampling": (lambda model: setattr(model, "model_sampling", torch.nn.Identity()), "model_sampling"),
    "a number of the sampling": (lambda model: setattr(model.model_sampling, "shift", 2.0), "model_sampling"),
    "a tensor of the sampling": (write_to_sigmas, "model_sampling"),
    "a number of the latents": (lambda model: setattr(model.latent_format, "scale", 2.0), "latent_format"),
    "the class": (lambda model: setattr(model, "__class__", type("Own", (type(model),), {})), "__class__"),
    "something less": (lambda model: delattr(model, "model_config"), "model_config"),
}
NO_CHANGES: dict[str, Callable[[Any], Any]] = {
    "nothing": lambda model: None,
    "ComfyUI's notes": lambda model: setattr(model, "current_patcher", object()),
    "a node's own mark": lambda model: setattr(model, "somebodys_mark", 3),
    "an equal number": lambda model: setattr(model.model_sampling, "shift", 1.0),
    "equal sigmas": lambda model: model.model_sampling.to("cpu"),
    "a private note": lambda model: setattr(model, "_cache", 3),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_noticed(model: Any, name: str) -> None:
    change, part = CHANGES[name]
    state = state_of(model)
    change(model)
    assert state.changed({}).part == part


@pytest.mark.parametrize("name", NO_CHANGES)
def test_no_change_is_none(model: Any, name: str) -> None:
    state = state_of(model)
    NO_CHANGES[name](model)
    assert state.changed({}) is None


def test_what_an_object_patch_replaces_for_now_is_no_change(model: Any) -> None:
    state = state_of(model)
    own, model.model_sampling = model.model_sampling, torch.nn.Identity()
    assert state.changed({"model_sampling": own}) is None
    assert state.changed({}).part == "model_sampling"


def test_replaced_code_of_the_sampling_is_noticed(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import comfy.k_diffusion.sampling

    state = state_of(model)
    monkeypatch.setattr(comfy.k_diffusion.sampling, "sample_euler", abs)
    assert state.changed({}).part == "comfy.k_diffusion.sampling.sample_euler"
