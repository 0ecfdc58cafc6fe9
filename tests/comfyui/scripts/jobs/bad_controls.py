"""A backend that is called with wrong ControlNets: its errors, and the results of right calls afterwards."""

from __future__ import annotations

from typing import Any

import torch
from sides import BACKEND, UNET, job_of, noise, settings

from comfy_gpu_offload.backends.base import BackendError, ModuleCall
from comfy_gpu_offload.comfyui.wire.control_data import KEY, PREFIX
from comfy_gpu_offload.protocol.messages import ModelRef

_LATENT = (2, *UNET.latent[1:])


def _net(**changes: Any) -> dict[str, Any]:
    """Return fields that are right but for `changes`, with the inputs of a call."""
    found = BACKEND.describe(ModelRef(name=f"{PREFIX}edges.safetensors"))
    x, context = noise(_LATENT, 90), noise((2, 6, UNET.width), 91)
    given = {
        "net": "edges.safetensors",
        "fingerprint": found.description.fingerprint,
        "strength": 1.0,
        "control_type": None,
        "hint": torch.full((1, 3, 16, 16), 99, dtype=torch.uint8),
        "encoded": False,
        "masks": [],
        "x": x,
        "timestep": torch.full((2,), 500.0),
        "context": context,
        "conds": {},
        "chunks": 2,
        "previous": None,
    }
    return {**given, **changes}


def _forward(control: Any) -> torch.Tensor:
    ref = ModelRef(name=UNET.file)
    description = BACKEND.describe(ref).description
    dtype = getattr(torch, description.compute_dtype)
    args = (noise(_LATENT, 90).to(dtype), torch.full((2,), 500.0))
    context = noise((2, 6, UNET.width), 91).to(dtype)
    kwargs = {"context": context, "control": control, "transformer_options": {}}
    result = BACKEND.forward(ModuleCall(ref, description.fingerprint, args, kwargs)).result
    assert isinstance(result, torch.Tensor)
    return result


def _said(call: Any) -> str:
    try:
        call()
    except BackendError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def bad_controls() -> dict[str, Any]:
    """Return the error of each, and whether calls after it give the same as calls before it."""
    before, controlled = _forward(None), _forward({KEY: _net()})
    deep: dict[str, Any] = _net()
    for _ in range(16):
        deep = _net(previous={KEY: deep})
    calls = {
        "outside": _net(net="../diffusion_models/mmdit.safetensors"),
        "unknown": _net(net="nobody's"),
        "changed": _net(fingerprint="f" * 16),
        "not finite": _net(strength=float("nan")),
        "another size": _net(x=noise((2, 4, 9, 9), 92)),
        "odd chunks": _net(chunks=3),
        "no latent": _net(x=None),
        "unknown conditioning": _net(conds={"gate": torch.zeros(2)}),
        "encoded": _net(encoded=True),
        "too many": deep,
        "of another kind of model": _net(context=noise((2, 6, 1024), 91)),
    }
    said = {name: _said(lambda net=net: _forward({KEY: net})) for name, net in calls.items()}
    job = job_of(UNET, settings({}))
    tree = {"latent": noise(UNET.latent, 93), "positive": [[noise((1, 6, UNET.width), 94), {"control": 1}]]}
    entry = _net(start=0.0, end=1.0)
    runs = {
        "a place that is not there": {**tree, "negative": [], "control_nets": [entry]},
        "a table that is none": {**tree, "negative": [], "control_nets": {"0": entry}},
        "a run of another kind of model": {
            **tree,
            "positive": [[noise((1, 6, 1024), 94), {"control": 0}]],
            "negative": [[noise((1, 6, 1024), 94), {"control": 0}]],
            "control_nets": [entry],
        },
    }
    said |= {name: _said(lambda run=run: BACKEND.sample(job, run, lambda *_: None)) for name, run in runs.items()}
    return {
        "said": said,
        "controls": not torch.equal(before, controlled),
        "same": torch.equal(before, _forward(None)) and torch.equal(controlled, _forward({KEY: _net()})),
    }
