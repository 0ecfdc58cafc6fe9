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


def remote_net(scene: Scene, name: str = EDGES, *, use_runpod: bool = True) -> Link:
    return scene.workflow.add("RemoteControlNetLoader", control_net_name=name, use_runpod=use_runpod)


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


def assert_remote_nets_are_stock(
    comfyui: ComfyUI, listed: str, patch: Callable[[Scene, Callable[..., Link]], None], sampling: Sampling
) -> None:
    """Each way bit for bit what stock nodes give; `patch` applies control nets with the loader that it is given."""
    ways = {"stock": "KSampler", "each step": "RemoteSampler", "whole loop": "RemoteSampler"}
    stock, remote = Scene.of(TINY), Scene.of(TINY)
    patch(stock, control_net)
    stock.sample("KSampler", stock.workflow.local(TINY), sampling, "stock")
    comfyui.run(stock.workflow.graph)
    patch(remote, remote_net)
    model = remote.workflow.remote(listed)
    for offload in ("each step", WHOLE):
        remote.sample("RemoteSampler", model, sampling, offload, offload=offload)
    comfyui.run(remote.workflow.graph)
    expected = comfyui.saved("stock")
    for offload in list(ways)[1:]:
        assert_identical(expected, comfyui.saved(offload))
    assert_worth_comparing({"stock": expected}, {"stock": sampling})


def one(scene: Scene, net: Callable[..., Link]) -> None:
    apply(scene, net(scene), image(scene))


def for_a_while(scene: Scene, net: Callable[..., Link]) -> None:
    apply(scene, net(scene), image(scene), strength=1.3, start=0.2, end=0.6)


def two(scene: Scene, net: Callable[..., Link]) -> None:
    apply(scene, net(scene), image(scene, 2, height=100, width=90), strength=0.5)
    apply(scene, net(scene), image(scene, 3), strength=0.9, start=0.4)


@pytest.mark.parametrize("patch", [one, for_a_while, two])
def test_one_at_the_worker(
    comfyui: ComfyUI, listed: Callable[[Model], str], patch: Callable[[Scene, Callable[..., Link]], None]
) -> None:
    told = residuals_told(comfyui)
    assert_remote_nets_are_stock(comfyui, listed(UNET), patch, Sampling(seed=631, steps=3))
    assert residuals_told(comfyui) == told
