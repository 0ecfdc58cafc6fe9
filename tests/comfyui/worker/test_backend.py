"""The comfyui backend on a stand-in of ComfyUI: lists, loads, calls, patches and evicts models."""

from __future__ import annotations

from typing import Any

import torch
from tests.support.comfy_stand_in.fixtures import StandIn

from comfy_gpu_offload.protocol.messages import ModelRef


def backend_of(stand_in: StandIn, **options: Any) -> Any:
    from comfy_gpu_offload.comfyui.worker.backend import ComfyUIBackend

    return ComfyUIBackend(stand_in.root, cpu=True, **options)


def test_a_model_is_listed_described_and_called(comfy_stand_in: StandIn) -> None:
    comfy_stand_in.write_model("one.safetensors")
    comfy_stand_in.write_control_net("edges.safetensors")
    backend = backend_of(comfy_stand_in)
    assert [(entry.name, entry.folder) for entry in backend.listing().models] == [
        ("one.safetensors", "diffusion_models"),
        ("edges.safetensors", "controlnet"),
    ]
    ref = ModelRef(name="one.safetensors")
    described = backend.describe(ref)
    assert described.details["config_class"] == "StandInConfig"
    assert described.details["keys"]["layer.weight"] == ((4, 4), torch.float32)
    x = torch.randn(2, 4, 3, 3)
    result = backend.forward(ref, described.description.fingerprint, (x, torch.ones(2)), {}).result
    from safetensors.torch import load_file

    weights = load_file(comfy_stand_in.models / "diffusion_models" / "one.safetensors")
    expected = torch.nn.functional.linear(x.movedim(1, -1), weights["layer.weight"], weights["layer.bias"])
    assert torch.equal(result, expected.movedim(-1, 1))
