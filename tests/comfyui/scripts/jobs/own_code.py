"""Code that reaches past ComfyUI's patches into a network or its weights, and code that reads weights.

    PYTHON own_code.py COMFYUI_ROOT MODELS_FOLDER

Prints JSON, for test_own_code.py to judge.
"""

from __future__ import annotations

import functools
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

# First: it makes ComfyUI importable.
import sides
import torch
from comfy import controlnet, lora, lora_convert, samplers
from comfy.ldm.wan import model as wan
from comfy.patcher_extension import PatcherInjection
from comfy_extras import nodes_lora_extract as extracting
from comfy_extras import nodes_model_merging as merging
from comfy_extras import nodes_train as training
from sessions import Pair, sampled, sampled_whole
from sides import FOLDER, MMDIT, UNET, WAN, Case, Patch, case, noise

from comfy_gpu_offload.comfyui.client import loader_epoch
from comfy_gpu_offload.comfyui.client.changes import foreign_code, loaded_code
from comfy_gpu_offload.comfyui.client.sampling.offload_mode import AUTO, runs_whole
from comfy_gpu_offload.errors import OffloadError

_TINY = replace(UNET, latent=(1, 4, 8, 6))
_OTHER = replace(MMDIT, file="mmdit-other.safetensors")
# What a user does with a model, up to whatever is made of it.
Use = Callable[[], Any]


def _method_for_a_call(model: Any) -> Any:
    """Replace a method for the length of a call, as TeaCache does."""
    network = model.get_model_object("diffusion_model")

    def zeros(self: Any, x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        return torch.zeros_like(x)

    def wrapper(function: Any, given: dict[str, Any]) -> Any:
        with mock.patch.multiple(network, forward_orig=zeros.__get__(network)):
            return function(given["input"], given["timestep"], **given["c"])

    model.set_model_unet_function_wrapper(wrapper)
    return model


def _blocks_for_a_call(model: Any) -> Any:
    """Replace blocks for the length of a call, as First Block Cache does."""
    network = model.get_model_object("diffusion_model")
    fewer = torch.nn.ModuleList([network.blocks[0]])

    def wrapper(function: Any, given: dict[str, Any]) -> Any:
        with mock.patch.object(network, "blocks", fewer):
            return function(given["input"], given["timestep"], **given["c"])

    model.set_model_unet_function_wrapper(wrapper)
    return model


def _forward_of_a_block(model: Any) -> Any:
    model.model.diffusion_model.blocks[0].forward = lambda x, *_, **__: x
    return model


def _hook_of_a_block(model: Any) -> Any:
    model.model.diffusion_model.blocks[0].register_forward_hook(lambda *given: given[-1] * 0)
    return model


def _every_attention(model: Any) -> Any:
    for name, part in model.model.diffusion_model.named_modules():
        if name.endswith("self_attn"):
            part.forward = lambda x, *_, **__: x
    return model


def _weights(model: Any) -> Any:
    network = model.model.diffusion_model
    network.load_state_dict({key: torch.zeros(value.shape) for key, value in network.state_dict().items()})
    return model


PUT_IN: dict[str, Patch] = {
    "a method for a call": _method_for_a_call,
    "blocks for a call": _blocks_for_a_call,
    "a block's forward": _forward_of_a_block,
    "a block's hook": _hook_of_a_block,
    "every attention": _every_attention,
    "weights": _weights,
}


def put_in() -> dict[str, Any]:
    """Put code into a network: return that it matters here, and its refusal on a remote model."""
    found = {}
    plain = sampled(Pair.of(WAN).stock, case(WAN, steps=2))
    for name, change in PUT_IN.items():
        pair = Pair.of(WAN)
        with torch.inference_mode():
            here = sampled(change(pair.stock.clone()), case(WAN, steps=2))
        before = loader_epoch.current()
        found[name] = {
            **_refused(pair, lambda pair=pair, change=change: sampled(change(pair.remote.clone()), case(WAN))),
            "mattered": not torch.equal(here, plain),
            "loaded anew": loader_epoch.current() > before,
        }
    return found


def of_the_class() -> dict[str, Any]:
    """Replace a method of ComfyUI's own class while prompts run, of the loaded model and of the next."""
    pair = Pair.of(WAN)
    kind = type(pair.stock.model.diffusion_model)
    with mock.patch.object(kind, "forward_orig", lambda _, x, *__, **___: torch.zeros_like(x)):
        refused = _refused(pair, lambda: sampled(pair.remote, case(WAN)))
        following = _refused(another := Pair.of(WAN), lambda: sampled(another.remote, case(WAN)))
    same = torch.equal(sampled(Pair.of(WAN).stock, case(WAN)), sampled(pair.remote, case(WAN)))
    return {**refused, "following": following, "same after it": same}


class _Settings:
    """A pack's settings of a run, an object that cannot be sent."""

    scale = 0.75


def _settings_in_options(model: Any) -> Any:
    """Leave an object in the options for a function of the pack's own that runs around the network."""
    key = "own_code_settings"
    model.model_options["transformer_options"] = {**model.model_options["transformer_options"], key: [_Settings()]}

    def scaled(given: dict[str, Any]) -> torch.Tensor:
        settings = given["model_options"]["transformer_options"][key][0]
        return given["denoised"] * settings.scale

    model.set_model_sampler_post_cfg_function(scaled)
    return model


def objects_in_options() -> dict[str, Any]:
    """Return how a run ends with an object in the options that only code around the network reads."""
    pair = Pair.of(WAN)
    plain = sampled(pair.stock, case(WAN))
    stock, remote = (_settings_in_options(each.clone()) for each in (pair.stock, pair.remote))
    whole = _refused(pair, lambda: sampled_whole(remote, case(WAN)))
    calls = pair.remote.remote.calls
    here, there = sampled(stock, case(WAN)), sampled(remote, case(WAN))
    return {
        "same": torch.equal(here, there),
        "mattered": not torch.equal(here, plain),
        "calls": pair.remote.remote.calls - calls,
        "whole": whole,
    }


def _passed_on(function: Any) -> Any:
    """Return a pack's function around one of ComfyUI's, under its name."""

    @functools.wraps(function)
    def around(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return around


def before_prompts() -> dict[str, Any]:
    """Return the warnings, once a run, of code that was replaced before ComfyUI began to run prompts."""
    kind = type(Pair.of(WAN).stock.model.diffusion_model)
    own, attention = kind.forward_orig, wan.optimized_attention

    said: list[str] = []
    shown: list[str] = []
    with (
        mock.patch.object(kind, "forward_orig", _passed_on(own)),
        mock.patch.object(wan, "optimized_attention", _passed_on(attention)),
        mock.patch.object(kind, "a_packs_own", _passed_on(own), create=True),
        mock.patch.object(samplers, "calc_cond_batch", _passed_on(samplers.calc_cond_batch)),
        mock.patch.object(lora, "load_lora", _passed_on(lora.load_lora)),
        mock.patch.object(wan, "rearrange", _of_another_library(wan.rearrange)),
        mock.patch.dict(loaded_code._known, clear=True),
        mock.patch.object(foreign_code.logger, "warning", lambda text, *given: said.append(text % given)),
        mock.patch.object(foreign_code.node_lines, "show", shown.append),
    ):
        loaded_code.remember()
        pair = Pair.of(WAN)
        expected = sampled(pair.stock, case(WAN, steps=2))
        outcomes = {
            name: [torch.equal(sample(pair.remote, case(WAN, steps=2)), expected), *_taken(said, shown)]
            for name, sample in (("each step", sampled), ("whole loop", sampled_whole))
        }
        inputs = {"steps": 2, "cfg": 4.0, "sampler_name": "euler", "scheduler": "normal"}
        this = case(WAN)
        inputs |= {"positive": this.positive, "negative": this.negative, "latent_image": this.latent}
        auto = runs_whole(pair.remote, AUTO, inputs)
    return {**outcomes, "auto": auto}


def _of_another_library(function: Any) -> Any:
    """Return a function as ComfyUI imports it from a library folder of the system or a user."""
    made = _passed_on(function)
    made.__code__ = made.__code__.replace(co_filename="/usr/local/lib/python3/dist-packages/einops.py")
    del made.__wrapped__
    return made


def what_no_call_runs() -> dict[str, Any]:
    """Replace code that no call runs, as libraries do while a node runs another model, and leave it so."""
    pair = Pair.of(WAN)
    expected = sampled(pair.stock, case(WAN))
    found = {}
    replaced = (
        (torch, "load"),
        (torch.nn.Linear, "reset_parameters"),
        (lora, "model_lora_keys_unet"),
        (lora_convert, "convert_lora"),
    )
    for owner, name in replaced:
        with mock.patch.object(owner, name, _passed_on(getattr(owner, name))):
            found[name] = _same_or_said(pair, expected)
    torch.compile(torch.nn.Linear(2, 2), backend="eager")(torch.zeros(1, 2))
    found["torch.compile"] = _same_or_said(pair, expected)
    return found


def _same_or_said(pair: Pair, expected: torch.Tensor) -> bool | str:
    try:
        return torch.equal(sampled(pair.remote, case(WAN)), expected)
    except OffloadError as error:
        return str(error)


def _taken(said: list[str], shown: list[str]) -> list[list[str]]:
    taken = [list(said), list(shown)]
    said.clear()
    shown.clear()
    return taken


def injected() -> dict[str, Any]:
    """Inject code as a bypass LoRA loader does: ComfyUI puts it in with the weights, and takes it out again."""

    def put(patcher: Any) -> None:
        patcher.model.diffusion_model.blocks[0].forward = lambda x, *_, **__: x

    def take_out(patcher: Any) -> None:
        vars(patcher.model.diffusion_model.blocks[0]).pop("forward", None)

    pair = Pair.of(WAN)
    expected = sampled(pair.stock, case(WAN, steps=2))
    patched = pair.remote.clone()
    patched.set_injections("bypass", [PatcherInjection(put, take_out)])
    run = _refused(pair, lambda: sampled(patched, case(WAN)))
    return {**run, "same after it": torch.equal(expected, sampled(pair.remote, case(WAN, steps=2)))}


def _refused(pair: Pair, use: Use) -> dict[str, Any]:
    sent = pair.remote.remote.calls
    try:
        with torch.inference_mode():
            use()
        said = "nothing"
    except OffloadError as error:
        said = f"{type(error).__name__}: {error}"
    return {"said": said, "calls": pair.remote.remote.calls - sent}


def _executed(node: Any, **inputs: Any) -> Any:
    """Return the output of a node of either of ComfyUI's kinds."""
    if hasattr(node, "execute"):
        return node.execute(**inputs)
    return getattr(node(), node.FUNCTION)(**inputs)


def _readers(pair: Pair, other: Pair, folder: str) -> Iterator[tuple[str, Use]]:
    def extract(**settings: Any) -> None:
        (difference,) = merging.ModelSubtract().merge(pair.remote, other.remote, 1.0)
        _executed(extracting.LoraSave, filename_prefix="lora", rank=2, model_diff=difference, **settings)

    yield "saved", lambda: merging.ModelSave().save(pair.remote, "model")
    yield (
        "saved as a checkpoint",
        lambda: merging.save_checkpoint(pair.remote, filename_prefix="checkpoint", output_dir=folder),
    )
    yield "a LoRA of it", lambda: extract(lora_type="standard", bias_diff=True)
    # ComfyUI's node leaves out what it cannot read, and would write a file of nothing.
    yield "a LoRA without biases", lambda: extract(lora_type="standard", bias_diff=False)
    yield "a LoRA of the whole", lambda: extract(lora_type="full_diff", bias_diff=True)
    if hasattr(training.TrainLoraNode, "execute"):
        yield "trained", lambda: pair.remote.clone(force_deepcopy=True)


def read() -> dict[str, Any]:
    """Return the errors where weights are read, and whether a file is left."""
    found = {}
    pair, other = Pair.of(MMDIT), Pair.of(_OTHER)
    with tempfile.TemporaryDirectory() as folder:
        sides.nodes.folder_paths.set_output_directory(folder)
        for name, use in _readers(pair, other, folder):
            found[name] = {**_refused(pair, use), "files": len(list(Path(folder).iterdir()))}
    same = torch.equal(sampled(pair.stock, case(MMDIT)), sampled(pair.remote, case(MMDIT)))
    return {"refused": found, "same after it": same}


def _applied(net: Any) -> Case:
    this = case(_TINY, steps=1)
    picture = noise((1, 64, 48, 3), 3)
    apply = sides.nodes.ControlNetApplyAdvanced().apply_controlnet
    positive, negative = apply(this.positive, this.negative, net, picture, 0.8, 0.0, 1.0)
    return replace(this, positive=positive, negative=negative)


def controls() -> dict[str, Any]:
    """Return the errors of ControlNets that run here and take weights of the model, alone and in a chain."""
    pair = Pair.of(_TINY)
    files = FOLDER / "controlnet"
    of_model, edges = (controlnet.load_controlnet(str(files / f"{name}.safetensors")) for name in ("lora", "edges"))
    before_another = _applied(edges)
    for _, options in before_another.positive:
        options["control"].set_previous_controlnet(_applied(of_model).positive[0][1]["control"])
    of_sd35 = controlnet.ControlNetSD35(torch.nn.Linear(1, 1))
    cases = {"Control-LoRA": _applied(of_model), "in a chain": before_another, "SD3.5": _applied(of_sd35)}
    return {name: _refused(pair, lambda this=this: sampled(pair.remote, this)) for name, this in cases.items()}


if __name__ == "__main__":
    facts = {
        "put in": put_in(),
        "of the class": of_the_class(),
        "before prompts": before_prompts(),
        "injected": injected(),
        "objects in options": objects_in_options(),
        "read": read(),
        "controls": controls(),
        # Last: torch leaves traces.
        "no call's": what_no_call_runs(),
    }
    print(json.dumps(facts), flush=True)
    # As in run.py.
    os._exit(0)
