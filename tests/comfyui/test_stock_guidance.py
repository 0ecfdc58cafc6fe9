"""Guidance functions of ComfyUI's own nodes travel in a whole loop, equal to local bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from .harness.comparison import assert_whole_is_stock
from .harness.proxy import Proxy
from .harness.site import ComfyUI
from .harness.workflow import MMDIT, UNET, Link, Model, Sampling, Scene, Workflow

pytestmark = pytest.mark.comfyui

_SAMPLING = Sampling(seed=831)


@dataclass(frozen=True)
class Node:
    """A stock node that puts a function into the sampling loop."""

    name: str
    inputs: Mapping[str, Any]
    model: Model = MMDIT
    title: str = ""

    def __str__(self) -> str:
        return self.title or self.name

    def __call__(self, workflow: Workflow, model: Link) -> Link:
        return workflow.add(self.name, model=model, **self.inputs)

    def is_in(self, comfyui: ComfyUI) -> bool:
        """Return whether this release has the node, with these inputs."""
        found = comfyui.api.get("/object_info").get(self.name, {"input": {}})["input"]
        known = {**found.get("required", {}), **found.get("optional", {})}
        return known.keys() >= self.inputs.keys() and "model" in known


RESCALE = Node("RescaleCFG", {"multiplier": 0.7})
TCFG = Node("TCFG", {})
MAHIRO = Node("Mahiro", {})
NODES = (
    RESCALE,
    Node("RescaleCFG", {"multiplier": 0.7}, UNET, "RescaleCFG, UNet"),
    Node("CFGZeroStar", {}),
    Node("CFGNorm", {"strength": 0.9}),
    Node("CFGNorm", {"strength": 0.9, "pre_cfg": True}, title="CFGNorm before"),
    Node("Epsilon Scaling", {"scaling_factor": 1.05}),
    Node("TemporalScoreRescaling", {"tsr_k": 0.9, "tsr_sigma": 1.0}),
    Node("FreSca", {"scale_low": 1.0, "scale_high": 1.3, "freq_cutoff": 2}),
    MAHIRO,
    TCFG,
    Node("VideoLinearCFGGuidance", {"min_cfg": 1.5}),
    Node("VideoTriangleCFGGuidance", {"min_cfg": 1.5}),
)


@pytest.mark.each_release
@pytest.mark.parametrize("node", NODES, ids=str)
def test_a_whole_run_with_it(comfyui: ComfyUI, proxy: Proxy, listed: Callable[[Model], str], node: Node) -> None:
    if not node.is_in(comfyui):
        pytest.skip(f"this ComfyUI has no {node}")
    found = assert_whole_is_stock(comfyui, proxy, Scene.of(node.model), listed(node.model), (_SAMPLING,), node)
    scene = Scene.of(node.model)
    scene.sample("KSampler", scene.workflow.local(node.model), _SAMPLING, "plain")
    comfyui.run(scene.workflow.graph)
    assert not torch.equal(found["0"], comfyui.saved("plain")), "the function made no difference"


def test_several_at_once(comfyui: ComfyUI, proxy: Proxy, listed: Callable[[Model], str]) -> None:
    def patch(workflow: Workflow, model: Link) -> Link:
        for each in (RESCALE, TCFG, MAHIRO, Node("CFGZeroStar", {})):
            model = each(workflow, model)
        return model

    sampling = Sampling(seed=841, steps=4, sampler_name="dpmpp_2m")
    assert_whole_is_stock(comfyui, proxy, Scene.of(MMDIT, batch=2), listed(MMDIT), (sampling,), patch)


def test_the_model_is_as_it_was_afterwards(comfyui: ComfyUI, proxy: Proxy, listed: Callable[[Model], str]) -> None:
    assert_whole_is_stock(comfyui, proxy, Scene.of(MMDIT), listed(MMDIT), (_SAMPLING,), RESCALE)
    assert_whole_is_stock(comfyui, proxy, Scene.of(MMDIT), listed(MMDIT), (_SAMPLING,))
