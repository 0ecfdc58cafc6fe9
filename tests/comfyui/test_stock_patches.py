"""Patches of a network by ComfyUI's own nodes: remote equals local, each step and whole loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from .harness.comparison import Patch, assert_identical, assert_remote_equals_local, assert_whole_is_stock
from .harness.proxy import Proxy
from .harness.site import ComfyUI
from .harness.workflow import CHECKPOINT, MMDIT, TWO_LEVELS, UNET, Link, Model, Sampling, Scene, Workflow

pytestmark = pytest.mark.comfyui

_SAMPLING = Sampling(seed=801)
_SHRUNK = {"start_percent": 0.0, "end_percent": 0.8, "downscale_method": "bicubic", "upscale_method": "bislerp"}
_ALWAYS = {"start_percent": 0.0, "end_percent": 1.0}
_LAYERS = {"double_layers": "0", "single_layers": ""}


@dataclass(frozen=True)
class Node:
    """A stock node that patches a network."""

    name: str
    model: Model
    inputs: Mapping[str, Any]
    title: str = ""

    def __str__(self) -> str:
        return self.title or self.name

    def __call__(self, workflow: Workflow, model: Link) -> Link:
        return workflow.add(self.name, model=model, **self.inputs)


FREEU = Node("FreeU", TWO_LEVELS, {"b1": 1.1, "b2": 1.2, "s1": 0.9, "s2": 0.2})
FREEU_V2 = Node("FreeU_V2", TWO_LEVELS, {"b1": 1.3, "b2": 1.4, "s1": 0.9, "s2": 0.2})
SHRINK = Node(
    "PatchModelAddDownscale",
    TWO_LEVELS,
    {"block_number": 2, "downscale_factor": 2.0, "downscale_after_skip": True, **_SHRUNK},
    title="Deep Shrink after the skip",
)
SHRINK_BEFORE = Node(
    "PatchModelAddDownscale",
    TWO_LEVELS,
    {"block_number": 1, "downscale_factor": 1.5, "downscale_after_skip": False, **_SHRUNK},
    title="Deep Shrink before the skip",
)
PAG = Node("PerturbedAttentionGuidance", UNET, {"scale": 3.0})
IN_CHECKPOINT = Node("PerturbedAttentionGuidance", CHECKPOINT, PAG.inputs, title="PAG, a checkpoint")
NAG = Node("NAGuidance", UNET, {"nag_scale": 5.0, "nag_alpha": 0.5, "nag_tau": 1.5})
SLG = Node("SkipLayerGuidanceDiT", MMDIT, {**_LAYERS, **_ALWAYS, "scale": 3.0, "rescaling_scale": 0.2})
SLG_SD3 = Node("SkipLayerGuidanceSD3", MMDIT, {"layers": "1", "scale": 2.0, **_ALWAYS})
SLG_SIMPLE = Node("SkipLayerGuidanceDiTSimple", MMDIT, {**_LAYERS, **_ALWAYS})
NODES = (
    FREEU,
    FREEU_V2,
    SHRINK,
    SHRINK_BEFORE,
    PAG,
    IN_CHECKPOINT,
    NAG,
    SLG,
    SLG_SD3,
    SLG_SIMPLE,
)


def skip_unless_known(comfyui: ComfyUI, node: Node) -> None:
    if node.name not in comfyui.api.get("/object_info"):
        pytest.skip(f"this ComfyUI has no {node.name}")


@pytest.mark.each_release
@pytest.mark.parametrize("node", NODES, ids=str)
def test_each_step(comfyui: ComfyUI, listed: Callable[[Model], str], node: Node) -> None:
    skip_unless_known(comfyui, node)
    name = listed(node.model)
    patched = assert_remote_equals_local(comfyui, Scene.of(node.model), name, {"patched": _SAMPLING}, node)
    plain = assert_remote_equals_local(comfyui, Scene.of(node.model), name, {"plain": _SAMPLING})
    assert not torch.equal(patched["patched"], plain["plain"]), "the patch made no difference"


@pytest.mark.parametrize("node", NODES, ids=str)
def test_whole_loop(comfyui: ComfyUI, proxy: Proxy, listed: Callable[[Model], str], node: Node) -> None:
    skip_unless_known(comfyui, node)
    assert_whole_is_stock(comfyui, proxy, Scene.of(node.model), listed(node.model), (_SAMPLING,), node)


def stacked(*patches: Patch) -> Patch:
    def patch(workflow: Workflow, model: Link) -> Link:
        for each in patches:
            model = each(workflow, model)
        return model

    return patch


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "euler_ancestral"])
def test_several_at_once(comfyui: ComfyUI, listed: Callable[[Model], str], sampler: str) -> None:
    sampling = {sampler: Sampling(seed=811, steps=4, sampler_name=sampler)}
    both = stacked(FREEU_V2, SHRINK, PAG)
    assert_remote_equals_local(comfyui, Scene.of(TWO_LEVELS, batch=2), listed(TWO_LEVELS), sampling, both)


def test_with_lora(comfyui: ComfyUI, proxy: Proxy, listed: Callable[[Model], str]) -> None:
    def lora(workflow: Workflow, model: Link) -> Link:
        return workflow.add("LoraLoaderModelOnly", model=model, lora_name="locon.safetensors", strength_model=0.7)

    patch = stacked(lora, FREEU)
    name = listed(TWO_LEVELS)
    assert_remote_equals_local(comfyui, Scene.of(TWO_LEVELS), name, {"each step": _SAMPLING}, patch)
    assert_whole_is_stock(comfyui, proxy, Scene.of(TWO_LEVELS), name, (_SAMPLING,), patch)


def test_the_model_is_as_it_was_afterwards(comfyui: ComfyUI, listed: Callable[[Model], str]) -> None:
    scene = Scene.of(TWO_LEVELS)
    remote = scene.workflow.remote(listed(TWO_LEVELS))
    for number, model in enumerate((remote, FREEU(scene.workflow, remote), remote)):
        scene.sample("KSampler", model, Sampling(seed=821), f"one-{number}")
        scene.sample("RemoteSampler", model, Sampling(seed=821), f"whole-{number}", offload="whole loop")
    comfyui.run(scene.workflow.graph)
    for way in ("one", "whole"):
        before, patched, after = (comfyui.saved(f"{way}-{number}") for number in range(3))
        assert_identical(before, after)
        assert not torch.equal(before, patched)
