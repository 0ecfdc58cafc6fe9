"""A backend that is called with wrong patches of the network: its errors, and that right ones still work."""

from __future__ import annotations

from typing import Any

import torch
from sides import BACKEND, UNET, job_of, noise, settings

from comfy_gpu_offload.backends.base import BackendError, ModuleCall
from comfy_gpu_offload.protocol.messages import ModelRef

_RIGHT = {
    "function": "PerturbedAttentionGuidance.perturbed_attention",
    "values": {},
    "functions": {},
    "defaults": [None],
}
_PLACE = ("middle", 0)


def _replaced(**changes: Any) -> dict[str, Any]:
    return {"patches_replace": {"attn1": {_PLACE: {**_RIGHT, **changes}}}}


def _freeu(values: Any) -> dict[str, Any]:
    data = {"function": "FreeU.output_block_patch", "values": values, "functions": {}, "defaults": []}
    return {"patches": {"output_block_patch": [data]}}


def _forward(options: dict[str, Any]) -> torch.Tensor:
    ref = ModelRef(name=UNET.file)
    description = BACKEND.describe(ref).description
    dtype = getattr(torch, description.compute_dtype)
    args = (noise((2, *UNET.latent[1:]), 90).to(dtype), torch.full((2,), 500.0))
    kwargs = {"context": noise((2, 6, UNET.width), 91).to(dtype), "transformer_options": options}
    result = BACKEND.forward(ModuleCall(ref, description.fingerprint, args, kwargs)).result
    assert isinstance(result, torch.Tensor)
    return result


def _run(options: dict[str, Any]) -> None:
    tree = {"latent": noise(UNET.latent, 93), "positive": [], "negative": [], "model_options": options}
    BACKEND.sample(job_of(UNET, settings({})), tree, lambda *_: None)


def _bad_runs() -> dict[str, dict[str, Any]]:
    """Return wrong options of models for whole runs, by name."""
    mahiro = {"function": "Mahiro.mahiro_normd", "values": {}, "functions": {}, "defaults": []}
    pag = {
        "function": "PerturbedAttentionGuidance.post_cfg_function",
        "values": {"scale": 1.0, "unet_block": "middle", "unet_block_id": 0},
        "functions": {"perturbed_attention": {**_RIGHT, "functions": {"deeper": _RIGHT}}},
        "defaults": [],
    }
    return {
        "in a run": {"transformer_options": _replaced(function="SelfAttentionGuidance.attn_and_record")},
        "no list in a run": {"sampler_post_cfg_function": mahiro},
        "too many in a run": {"sampler_post_cfg_function": [mahiro] * 65},
        "a patch's place in a run": {"sampler_cfg_function": {**mahiro, "function": "os.system"}},
        "functions in functions in a run": {"sampler_post_cfg_function": [pag]},
    }


def _said(call: Any) -> str:
    try:
        call()
    except BackendError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def bad_stock_patches() -> dict[str, Any]:
    """Return the error of each, and whether a right one gives the same before and after."""
    before, patched = _forward({}), _forward(_replaced())
    deep: Any = 1.0
    for _ in range(6):
        deep = [deep]
    calls = {
        "another function": _replaced(function="SelfAttentionGuidance.attn_and_record"),
        "a function of another module": _replaced(function="os.system"),
        "no name": _replaced(function=3),
        "not of the form": {"patches_replace": {"attn1": {_PLACE: "perturbed_attention"}}},
        "a function itself in a list's place": {"patches_replace": {"attn1": [_RIGHT]}},
        "a dict in a list's place": {"patches": {"output_block_patch": {_PLACE: _RIGHT}}},
        "no table": {"patches": [_RIGHT]},
        "values of another function": _replaced(values={"scale": 1.0}),
        "a value missing": _freeu({"scale_dict": {}}),
        "a tensor for a value": _freeu({"scale_dict": torch.zeros(2), "on_cpu_devices": {}}),
        "values too deep": _freeu({"scale_dict": deep, "on_cpu_devices": {}}),
        "too many values": _freeu({"scale_dict": [0] * 65, "on_cpu_devices": {}}),
        "too many defaults": _replaced(defaults=[None] * 6),
        "too many places": {"patches_replace": {"attn1": {("middle", at): _RIGHT for at in range(5000)}}},
    }
    said = {name: _said(lambda options=options: _forward(options)) for name, options in calls.items()}
    said |= {name: _said(lambda options=options: _run(options)) for name, options in _bad_runs().items()}
    return {
        "said": said,
        "patches": not torch.equal(before, patched),
        "same": torch.equal(before, _forward({})) and torch.equal(patched, _forward(_replaced())),
    }
