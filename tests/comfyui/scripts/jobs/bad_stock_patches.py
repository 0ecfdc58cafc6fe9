"""A backend that is told of patches of the network that are wrong: what it says, and that right ones still work."""

from __future__ import annotations

from typing import Any

import torch
from sides import BACKEND, UNET, job_of, noise, settings

from comfy_gpu_offload.protocol.messages import ModelRef
from comfy_gpu_offload.server.backends.base import BackendError

_RIGHT = {"function": "PerturbedAttentionGuidance.perturbed_attention", "values": {}, "defaults": [None]}
_PLACE = ("middle", 0)


def _replaced(**changes: Any) -> dict[str, Any]:
    return {"patches_replace": {"attn1": {_PLACE: {**_RIGHT, **changes}}}}


def _freeu(values: Any) -> dict[str, Any]:
    data = {"function": "FreeU.output_block_patch", "values": values, "defaults": []}
    return {"patches": {"output_block_patch": [data]}}


def _forward(options: dict[str, Any]) -> torch.Tensor:
    ref = ModelRef(name=UNET.file)
    description = BACKEND.describe(ref).description
    dtype = getattr(torch, description.compute_dtype)
    args = (noise((2, *UNET.latent[1:]), 90).to(dtype), torch.full((2,), 500.0))
    kwargs = {"context": noise((2, 6, UNET.width), 91).to(dtype), "transformer_options": options}
    result = BACKEND.forward(ref, description.fingerprint, args, kwargs).result
    assert isinstance(result, torch.Tensor)
    return result


def _said(call: Any) -> str:
    try:
        call()
    except BackendError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def bad_stock_patches() -> dict[str, Any]:
    """What each is refused for, and whether a right one gives before and after what it gives."""
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
    tree = {"latent": noise(UNET.latent, 93), "positive": [], "negative": []}
    run = {**tree, "model_options": {"transformer_options": calls["another function"]}}
    said["in a run"] = _said(lambda: BACKEND.sample(job_of(UNET, settings({})), run, lambda *_: None))
    return {
        "said": said,
        "patches": not torch.equal(before, patched),
        "same": torch.equal(before, _forward({})) and torch.equal(patched, _forward(_replaced())),
    }
