"""Patches that cannot travel are refused by name, before the worker is asked for anything."""

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
    """A stock node that patches a model, and what of its name the refusal must say."""

    node: str
    named: str
    model: Model
    inputs: dict[str, Any]

    def __str__(self) -> str:
        return self.node


_FREEU = {"b1": 1.1, "b2": 1.2, "s1": 0.9, "s2": 0.2}
_TILES = {"tile_size": 256, "swap_size": 2, "max_depth": 0, "scale_depth": False}
_SLG = {
    "double_layers": "0, 1",
    "single_layers": "",
    "scale": 3.0,
    "start_percent": 0.0,
    "end_percent": 1.0,
    "rescaling_scale": 0.0,
}
_SLG_SIMPLE = {"double_layers": "0", "single_layers": "", "start_percent": 0.0, "end_percent": 1.0}
_SAG = {"scale": 0.5, "blur_sigma": 2.0}
PATCHINGS = (
    Patching("FreeU", "FreeU", UNET, _FREEU),
    Patching("FreeU_V2", "FreeU", UNET, _FREEU),
    Patching("PerturbedAttentionGuidance", "Perturbed", UNET, {"scale": 3.0}),
    Patching("SelfAttentionGuidance", "Self-?Attention", UNET, _SAG),
    Patching("SkipLayerGuidanceDiT", "Skip ?Layer", MMDIT, _SLG),
    Patching("SkipLayerGuidanceDiTSimple", "Skip ?Layer", MMDIT, _SLG_SIMPLE),
    Patching("HyperTile", "HyperTile", UNET, _TILES),
    Patching("TomePatchModel", "To(ken)?Me", UNET, {"ratio": 0.3}),
    Patching("TorchCompileModel", "TorchCompile", MMDIT, {"backend": "inductor"}),
    Patching("ModelComputeDtype", "manual_cast_dtype", MMDIT, {"dtype": "bf16"}),
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
    names = pytest.RaisesExc(Exception, match=f"(?i){patching.named}")
    assert names.matches(Exception(outcome.error_message)), outcome.error_message
    assert proxy.exchanges("forward") == []


def test_the_same_model_runs_without_the_patch(comfyui: ComfyUI, listed: Callable[[Model], str]) -> None:
    scene = Scene.of(UNET)
    remote = scene.workflow.remote(listed(UNET))
    scene.sample("KSampler", remote, Sampling(seed=301, steps=1), "unpatched")
    comfyui.run(scene.workflow.graph)
