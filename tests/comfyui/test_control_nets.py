"""ControlNets on a remote model: what they give locally, bit for bit, and what of them crosses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from .harness.comparison import assert_identical, assert_worth_comparing
from .harness.proxy import Proxy
from .harness.site import ComfyUI
from .harness.workflow import UNET, Link, Model, Sampling, Scene

pytestmark = pytest.mark.comfyui

TINY = replace(UNET, latent=(1, 4, 8, 6))
EDGES = "edges.safetensors"
WHOLE = "whole loop"


def control_net(scene: Scene, name: str = EDGES) -> Link:
    return scene.workflow.add("ControlNetLoader", control_net_name=name)


def image(scene: Scene, seed: int = 1, count: int = 1, height: int = 64, width: int = 48) -> Link:
    return scene.workflow.add("OffloadTestImage", seed=seed, count=count, height=height, width=width)


def apply(scene: Scene, net: Link, hint: Link, strength: float = 0.8, start: float = 0.0, end: float = 1.0) -> None:
    """On both sides of the conditioning."""
    applied = scene.workflow.add(
        "ControlNetApplyAdvanced",
        positive=scene.positive,
        negative=scene.negative,
        control_net=net,
        image=hint,
        strength=strength,
        start_percent=start,
        end_percent=end,
    )
    scene.positive, scene.negative = applied, [applied[0], 1]


def residuals_told(comfyui: ComfyUI) -> int:
    """How often the log warned of a ControlNet that runs here."""
    return comfyui.process.output.count("A ControlNet or T2I adapter runs here")


@pytest.mark.parametrize("offload", ["each step", "auto"])
def test_one_that_runs_here(comfyui: ComfyUI, listed: Callable[[Model], str], proxy: Proxy, offload: str) -> None:
    seed = 601 + len(offload)
    scene, told = Scene.of(TINY), residuals_told(comfyui)
    apply(scene, control_net(scene), image(scene))
    samplings = {"whole time": Sampling(seed=seed, steps=2)}
    scene.sample("KSampler", scene.workflow.local(TINY), samplings["whole time"], "stock")
    scene.sample(
        "RemoteSampler", scene.workflow.remote(listed(UNET)), samplings["whole time"], "ours", offload=offload
    )
    comfyui.run(scene.workflow.graph)
    stock = comfyui.saved("stock")
    assert_identical(stock, comfyui.saved("ours"))
    assert_worth_comparing({"whole time": stock}, samplings)
    assert len(proxy.exchanges("forward")) == 2
    assert residuals_told(comfyui) == told + 1


def test_one_that_runs_here_changes_the_picture(comfyui: ComfyUI, listed: Callable[[Model], str]) -> None:
    scene, sampling = Scene.of(TINY), Sampling(seed=611, steps=2)
    remote = scene.workflow.remote(listed(UNET))
    scene.sample("KSampler", remote, sampling, "without")
    apply(scene, control_net(scene), image(scene))
    scene.sample("KSampler", remote, sampling, "with")
    comfyui.run(scene.workflow.graph)
    difference = comfyui.saved("with") - comfyui.saved("without")
    assert difference.abs().max() > 0.05


def test_the_whole_loop_is_refused_with_one_that_runs_here(
    comfyui: ComfyUI, listed: Callable[[Model], str], proxy: Proxy
) -> None:
    scene = Scene.of(TINY)
    apply(scene, control_net(scene), image(scene))
    remote = scene.workflow.remote(listed(UNET))
    scene.sample("RemoteSampler", remote, Sampling(seed=621, steps=2), "refused", offload=WHOLE)
    outcome = comfyui.api.run(scene.workflow.graph)
    assert outcome.error is not None, outcome.summary
    assert outcome.error["exception_type"].endswith("UnsupportedRunError"), outcome.summary
    assert "ControlNet" in outcome.error_message
    assert proxy.exchanges("sample") == proxy.exchanges("forward") == []
