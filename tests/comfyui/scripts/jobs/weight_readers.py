"""Nodes' ways to read weights of a remote model, or compute with them: refusals, and what works.

    PYTHON weight_readers.py COMFYUI_ROOT MODELS_FOLDER

Prints JSON, for test_weight_readers.py to judge.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import operator
import os
from collections.abc import Callable
from typing import Any

# First: it makes ComfyUI importable.
import sides
import torch
from comfy import lora, model_management
from patch_forms import logged
from sessions import Pair, sampled, sampled_whole
from sides import MMDIT, UNET, WAN, case, noise

from comfy_gpu_offload.comfyui.client import loader_epoch
from comfy_gpu_offload.errors import OffloadError

_KEY = "diffusion_model.text_embedding.0.weight"


def weight_of(model: Any) -> Any:
    return model.model.diffusion_model.text_embedding[0].weight


def runs_a_layer(model: Any) -> Any:
    """Run a layer as KJNodes' WanVideoNAG does with its negative conditioning."""
    return model.model.diffusion_model.text_embedding(noise((1, 6, 4096), 3).bfloat16())


def in_place_around_a_call(model: Any) -> Any:
    patched = model.clone()

    def wrapper(function: Any, given: dict[str, Any]) -> Any:
        weight_of(patched).mul_(2)
        try:
            return function(given["input"], given["timestep"], **given["c"])
        finally:
            weight_of(patched).div_(2)

    patched.set_model_unet_function_wrapper(wrapper)
    return sampled(patched, case(WAN, steps=1))


def saved(weight: Any) -> Any:
    return torch.save({"weight": weight}, io.BytesIO())


# By name, what a node does with a weight, which needs its data.
READERS: dict[str, Callable[[Any], Any]] = {
    "a layer": runs_a_layer,
    "a layer's function": lambda model: torch.nn.functional.linear(
        noise((1, 4096), 4).bfloat16(), weight_of(model)
    ),
    "one value": lambda model: weight_of(model)[0, 0].item(),
    "a mean": lambda model: float(weight_of(model).mean()),
    "on the CPU": lambda model: weight_of(model).cpu(),
    "to the CPU": lambda model: weight_of(model).detach().to("cpu", torch.float32),
    "to its device": lambda model: weight_of(model).to(weight_of(model).device),
    "numpy": lambda model: weight_of(model).numpy(),
    "a list": lambda model: weight_of(model)[0].tolist(),
    "a number": lambda model: int(weight_of(model)[0, 0]),
    "a truth": lambda model: bool(weight_of(model)[0, 0]),
    "one by one": lambda model: list(weight_of(model)),
    "times two": lambda model: 2 * weight_of(model),
    "a product": lambda model: weight_of(model).t() @ noise((128, 2), 5).bfloat16(),
    "compared": lambda model: torch.equal(weight_of(model), weight_of(model)),
    "joined": lambda model: torch.cat([weight_of(model), weight_of(model)]),
    "copied into another": lambda model: torch.empty(128, 4096).copy_(weight_of(model)),
    "written to": lambda model: weight_of(model).copy_(torch.zeros(128, 4096)),
    "a part written to": lambda model: weight_of(model).__setitem__(0, 0.0),
    "written to through its data": lambda model: weight_of(model).data.mul_(2),
    "another's data": lambda model: setattr(weight_of(model), "data", torch.zeros(128, 4096)),
    "in place around a call": in_place_around_a_call,
    "a file": lambda model: saved(weight_of(model)),
    "by its key": lambda model: model.model_state_dict()[_KEY].float().norm(),
    "of the model's own keys": lambda model: model.model.state_dict()[_KEY].abs(),
    "among parameters": lambda model: dict(model.model.named_parameters())[_KEY].abs(),
    "a singular value decomposition": lambda model: torch.linalg.svd(weight_of(model).float()),
}


def refused() -> dict[str, str]:
    # Each with a model of its own, which remembers what it has refused.
    return {name: said(lambda use=use: use(Pair.of(WAN).remote)) for name, use in READERS.items()}


def said(use: Callable[[], Any]) -> str:
    try:
        with torch.inference_mode():
            use()
    except OffloadError as error:
        return f"{type(error).__name__}: {error}"
    except Exception as error:  # what a node would end in
        return f"not ours: {type(error).__name__}: {error}"
    return "nothing"


def works() -> dict[str, Any]:
    """Return what asks for no data, of a weight here and of its stand-in."""
    pair = Pair.of(WAN)
    device = model_management.get_torch_device()
    facts: dict[str, Callable[[Any], Any]] = {
        "shape": lambda weight: list(weight.shape),
        "size": lambda weight: list(weight.size()),
        "dtype": lambda weight: str(weight.dtype),
        "device": lambda weight: str(weight.device),
        "on a GPU": lambda weight: weight.is_cuda,
        "elements": lambda weight: [weight.numel(), weight.nelement(), weight.element_size(), weight.nbytes],
        "dimensions": lambda weight: [weight.dim(), weight.ndim, len(weight)],
        "strides": lambda weight: list(weight.stride()),
        "gradient": lambda weight: [weight.requires_grad, weight.grad is None],
        "parameter": lambda weight: isinstance(weight, torch.nn.Parameter),
        "transposed": lambda weight: [list(weight.T.shape), list(weight.t().shape)],
        "a row": lambda weight: list(weight[0].shape),
        "parts": lambda weight: [list(part.shape) for part in weight.chunk(2)],
        "flat": lambda weight: list(weight.flatten(1).view(-1).shape),
        "another dtype": lambda weight: str(weight.to(torch.float32).dtype),
        "zeros like it": lambda weight: [
            str(torch.zeros_like(weight).device),
            float(torch.zeros_like(weight).sum()),
        ],
        "brought to its device": lambda weight: noise((2,), 6).to(weight.device).tolist(),
        "without data": lambda weight: str(weight.to("meta").is_meta),
        "a copy": lambda weight: [list(copy.deepcopy(weight).shape), copy.deepcopy(weight) is weight],
        "in a set": lambda weight: len({weight, weight}),
        "text": lambda weight: len(f"{weight}") > 0,
    }
    model_management.load_models_gpu([pair.stock])
    with torch.inference_mode():
        here = {name: fact(weight_of(pair.stock)) for name, fact in facts.items()}
        there = {name: fact(weight_of(pair.remote)) for name, fact in facts.items()}
    keys = [sorted(lora.model_lora_keys_unet(model.model, {})) for model in (pair.stock, pair.remote)]
    assert str(device) == here["device"]
    return {"here": here, "there": there, "same keys": keys[0] == keys[1]}


def after_all() -> dict[str, bool]:
    """Return whether runs are as ever, with a model that was read from and one that was not."""
    pair = Pair.of(WAN)
    for use in READERS.values():
        said(lambda use=use: use(pair.remote))  # type: ignore[misc]
    expected = sampled(pair.stock, case(WAN))
    return {
        "each step": torch.equal(expected, sampled(Pair.of(WAN).remote, case(WAN))),
        "whole loop": torch.equal(expected, sampled_whole(Pair.of(WAN).remote, case(WAN))),
    }


CAUGHT: dict[str, Callable[[Any], Any]] = {
    "read": lambda weight: weight.mean().item(),
    "in a method": lambda weight: weight.mul_(2),
    "in an operator": lambda weight: operator.imul(weight, 2),
    "in a part": lambda weight: operator.setitem(weight, 0, 0.0),
    "in its data": lambda weight: setattr(weight, "data", torch.zeros(1)),
    "read by another's method": lambda weight: torch.zeros(weight.shape).add_(weight),
}


def caught() -> dict[str, Any]:
    """Make a node catch the refusal and go on: return the runs after it, and what is logged of it."""
    found = {}
    for name, use in CAUGHT.items():
        pair = Pair.of(MMDIT)
        expected = sampled(pair.stock, case(MMDIT))
        with contextlib.suppress(Exception):
            use(pair.remote.model.diffusion_model.x_embedder.proj.weight)
        before = loader_epoch.current()
        ways = {"each step": sampled, "whole loop": sampled_whole}
        runs, texts = logged(lambda pair=pair, ways=ways: {way: ran(run, pair.remote) for way, run in ways.items()})
        found[name] = {
            "same": [isinstance(run, torch.Tensor) and torch.equal(run, expected) for run in runs.values()],
            "refused": [run for run in runs.values() if isinstance(run, str)],
            "said": texts,
            "loaded anew": loader_epoch.current() > before,
        }
    return found


def ran(run: Callable[[Any, Any], torch.Tensor], model: Any) -> torch.Tensor | str:
    try:
        return run(model, case(MMDIT))
    except OffloadError as error:
        return f"{type(error).__name__}: {error}"


def diff_control_net() -> str:
    """Call ComfyUI's own loader of a ControlNet made of differences to a model's weights."""
    loader = sides.nodes.DiffControlNetLoader()
    sides.nodes.folder_paths.add_model_folder_path("controlnet", str(sides.FOLDER / "controlnet"))
    return said(lambda: loader.load_controlnet(Pair.of(UNET).remote, "diff.safetensors"))


def loaded_into_a_layer() -> str:
    layer = Pair.of(MMDIT).remote.model.diffusion_model.joint_blocks[0].x_block.attn.proj
    return said(
        lambda: layer.load_state_dict(
            {name: torch.zeros(value.shape) for name, value in layer.state_dict().items()}
        )
    )


if __name__ == "__main__":
    facts = {
        "refused": refused(),
        "works": works(),
        "after all": after_all(),
        "caught": caught(),
        "diff": diff_control_net(),
        "loaded": loaded_into_a_layer(),
    }
    print(json.dumps(facts), flush=True)
    # As in run.py.
    os._exit(0)
