"""Patches that cannot travel are refused by name, before the worker is asked for anything."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from .harness.proxy import Proxy
from .harness.site import ComfyUI
from .harness.workflow import MMDIT, UNET, Model, Sampling, Scene

pytestmark = pytest.mark.comfyui


@dataclass(frozen=True)
class Patching:
    """A stock node that patches a model, the part of its name in the refusal, and the advice."""

    node: str
    named: str
    advice: str
    model: Model
    inputs: dict[str, Any]

    def __str__(self) -> str:
        return self.node


_TILES = {"tile_size": 256, "swap_size": 2, "max_depth": 0, "scale_depth": False}
_SAG = {"scale": 0.5, "blur_sigma": 2.0}
PATCHINGS = (
    Patching("SelfAttentionGuidance", "Self-?Attention", "RescaleCFG", UNET, _SAG),
    Patching("HyperTile", "HyperTile", "only saves time", UNET, _TILES),
    Patching("TomePatchModel", "To(ken)?Me", "only saves time", UNET, {"ratio": 0.3}),
    Patching("TorchCompileModel", "TorchCompile", "Bypass the node", MMDIT, {"backend": "inductor"}),
    Patching(
        "ModelComputeDtype", "manual_cast_dtype", "weight_dtype in Remote Model Loader", MMDIT, {"dtype": "bf16"}
    ),
)


@pytest.mark.parametrize("node", ["KSampler", "RemoteSampler"])
@pytest.mark.parametrize("patching", PATCHINGS, ids=str)
def test_a_patched_remote_model_is_refused(
    comfyui: ComfyUI, listed: Callable[[Model], str], proxy: Proxy, patching: Patching, node: str
) -> None:
    scene = Scene.of(patching.model)
    remote = scene.workflow.remote(listed(patching.model))
    patched = scene.workflow.add(patching.node, model=remote, **patching.inputs)
    scene.sample(node, patched, Sampling(seed=300), "refused")
    outcome = comfyui.api.run(scene.workflow.graph)
    assert outcome.error is not None, outcome.summary
    assert outcome.error["exception_type"].endswith("UnsupportedPatchError"), outcome.summary
    assert re.search(f"(?i){patching.named}", outcome.error_message), outcome.error_message
    assert patching.advice in outcome.error_message
    assert proxy.exchanges("forward") == []


@pytest.mark.each_release
def test_everything_is_listed_at_once(comfyui: ComfyUI, listed: Callable[[Model], str], proxy: Proxy) -> None:
    scene = Scene.of(MMDIT)
    workflow = scene.workflow
    remote = workflow.remote(listed(MMDIT))
    model = workflow.add("LoraLoaderModelOnly", model=remote, lora_name="misfit.safetensors", strength_model=1.0)
    for patching in PATCHINGS:
        if patching.model is MMDIT:
            model = workflow.add(patching.node, model=model, **patching.inputs)
    scene.sample("KSampler", model, Sampling(seed=302), "refused")
    lines = [line for line in comfyui.api.run(workflow.graph).error_message.splitlines() if line.startswith("  - ")]
    # What it is (which nodes put it there). What to do.
    assert all(re.fullmatch(r"  - [^()].* \(.+\)\. [A-Z].*\.", line) for line in lines), lines
    for said in ("LoRA loaders", "TorchCompileModel", "ModelComputeDtype"):
        assert any(said in line for line in lines), (said, lines)
    assert proxy.exchanges("forward") == []


def test_the_same_model_runs_without_the_patch(comfyui: ComfyUI, listed: Callable[[Model], str]) -> None:
    scene = Scene.of(UNET)
    remote = scene.workflow.remote(listed(UNET))
    scene.sample("KSampler", remote, Sampling(seed=301, steps=1), "unpatched")
    comfyui.run(scene.workflow.graph)
