"""ControlNets on a remote model: equal to local bit for bit, and the bytes that cross for them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from .harness.comparison import assert_identical, assert_worth_comparing
from .harness.events import shown_while_running
from .harness.proxy import Proxy
from .harness.site import ComfyUI
from .harness.workflow import MMDIT, UNET, Link, Model, Sampling, Scene

pytestmark = pytest.mark.comfyui

TINY = replace(UNET, latent=(1, 4, 8, 6))
# Its third block is the first that a T2I adapter's features reach.
THREE_BLOCKS = replace(TINY, name="three-blocks", file="three-blocks.safetensors")
DIT = replace(MMDIT, latent=(1, 16, 8, 6))
EDGES, DEPTH, SD3, ADAPTER, LORA = (f"{name}.safetensors" for name in ("edges", "depth", "sd3", "adapter", "lora"))
WHOLE = "whole loop"
# Of one picture: 64 by 48 pixels of three bytes.
PICTURE_BYTES = 64 * 48 * 3
OVERHEAD_BYTES = 6000

# Gives a CONTROL_NET of a file.
Load = Callable[[Scene, str], Link]
# Applies control nets to a scene's conditioning.
Applying = Callable[[Scene, Load], None]


def stock(scene: Scene, name: str) -> Link:
    return scene.workflow.add("ControlNetLoader", control_net_name=name)


def at_worker(scene: Scene, name: str) -> Link:
    return scene.workflow.add("RemoteControlNetLoader", control_net_name=name, use_runpod=True)


def image(scene: Scene, seed: int = 1, height: int = 64, width: int = 48, count: int = 1) -> Link:
    return scene.workflow.add("OffloadTestImage", seed=seed, count=count, height=height, width=width)


def apply(
    scene: Scene,
    net: Link,
    hint: Link,
    strength: float = 0.8,
    times: tuple[float, float] = (0.0, 1.0),
    vae: Link | None = None,
) -> None:
    """Apply a ControlNet on both sides of the conditioning."""
    applied = scene.workflow.add(
        "ControlNetApplyAdvanced",
        positive=scene.positive,
        negative=scene.negative,
        control_net=net,
        image=hint,
        strength=strength,
        start_percent=times[0],
        end_percent=times[1],
        **({} if vae is None else {"vae": vae}),
    )
    scene.positive, scene.negative = applied, [applied[0], 1]


def one(scene: Scene, load: Load) -> None:
    apply(scene, load(scene, EDGES), image(scene))


def a_while(scene: Scene, load: Load) -> None:
    apply(scene, load(scene, EDGES), image(scene, 2), strength=1.3, times=(0.2, 0.6))


def two(scene: Scene, load: Load) -> None:
    apply(scene, load(scene, EDGES), image(scene, 2, height=100, width=90), strength=0.5)
    apply(scene, load(scene, DEPTH), image(scene, 3), strength=0.9, times=(0.0, 0.7))


def different_ones(scene: Scene, load: Load) -> None:
    """Apply nets in an area, on one side alone, by the older node, and with a union's type that has no effect."""
    add, made = scene.workflow.add, scene.workflow.conditioning
    union = add("SetUnionControlNetType", control_net=load(scene, EDGES), type="tile")
    box = {"width": 0.5, "height": 0.5, "x": 0.5, "y": 0.5, "strength": 0.9}
    part = add("ConditioningSetAreaPercentage", conditioning=made(UNET, 77), **box)
    part = add("ControlNetApply", conditioning=part, control_net=union, image=image(scene, 4), strength=0.7)
    whole = add(
        "ControlNetApply",
        conditioning=scene.positive,
        control_net=load(scene, DEPTH),
        image=image(scene, 5, count=3),
        strength=1.0,
    )
    scene.positive = add("ConditioningCombine", conditioning_1=whole, conditioning_2=part)


def with_vae(scene: Scene, load: Load) -> None:
    vae = scene.workflow.add("VAELoader", vae_name="small.safetensors")
    apply(scene, load(scene, SD3), image(scene, 6), strength=0.8, vae=vae)


def adapter(scene: Scene, load: Load) -> None:
    apply(scene, load(scene, ADAPTER), image(scene, 7), strength=0.9)


def control_lora(scene: Scene, load: Load) -> None:
    apply(scene, load(scene, LORA), image(scene, 8), strength=0.9)


def residuals_told(comfyui: ComfyUI) -> int:
    """Return how often the log warned of a ControlNet that runs here."""
    return comfyui.process.output.count("A ControlNet or T2I adapter runs here")


def assert_stock(
    comfyui: ComfyUI,
    listed: str,
    applying: tuple[Applying, Applying],
    sampling: Sampling,
    offloads: tuple[str, ...] = ("each step", WHOLE),
    model: Model = TINY,
    batch: int = 1,
) -> torch.Tensor:
    """Check that each way gives the stock nodes' latent bit for bit; `applying` on the stock scene, and on ours."""
    theirs, ours = Scene.of(model, batch=batch), Scene.of(model, batch=batch)
    applying[0](theirs, stock)
    theirs.sample("KSampler", theirs.workflow.local(model), sampling, "stock")
    comfyui.run(theirs.workflow.graph)
    applying[1](ours, at_worker)
    remote = ours.workflow.remote(listed)
    for offload in offloads:
        ours.sample("RemoteSampler", remote, sampling, offload, offload=offload)
    comfyui.run(ours.workflow.graph)
    expected = comfyui.saved("stock")
    for offload in offloads:
        assert_identical(expected, comfyui.saved(offload))
    assert_worth_comparing({"stock": expected}, {"stock": sampling})
    return expected


def here(applying: Applying) -> Applying:
    """Return the same with the stock loader, on a remote model too."""
    return lambda scene, _: applying(scene, stock)


@pytest.mark.each_release
@pytest.mark.parametrize(
    ("model", "applying"), [(TINY, one), (THREE_BLOCKS, adapter)], ids=["ControlNet", "T2I adapter"]
)
def test_one_that_runs_here(
    comfyui: ComfyUI, listed: Callable[[Model], str], proxy: Proxy, model: Model, applying: Applying
) -> None:
    told, sampling = residuals_told(comfyui), Sampling(seed=601, steps=3)
    # The whole loop is not for it, and auto knows that.
    ours = (applying, here(applying))
    assert_stock(comfyui, listed(model), ours, sampling, ("each step", "auto"), model)
    assert residuals_told(comfyui) == told + 2
    sent = [exchange.up_bytes for exchange in proxy.exchanges("forward")]
    assert len(sent) == 6
    if model is THREE_BLOCKS:
        # An adapter's features are the same in every step, and on both sides: they cross once.
        assert max(sent[3:]) < OVERHEAD_BYTES < 320 * 8 * 6 * 4 < sent[0] < 2 * 320 * 8 * 6 * 4


def test_the_whole_loop_is_refused_with_one_that_runs_here(
    comfyui: ComfyUI, listed: Callable[[Model], str], proxy: Proxy
) -> None:
    scene = Scene.of(TINY)
    one(scene, stock)
    remote = scene.workflow.remote(listed(UNET))
    scene.sample("RemoteSampler", remote, Sampling(seed=621, steps=2), "refused", offload=WHOLE)
    error = refused(comfyui, scene, "UnsupportedRunError")
    assert "Remote ControlNet Loader" in error
    assert proxy.exchanges("sample") == proxy.exchanges("forward") == []


@pytest.mark.each_release
@pytest.mark.parametrize("applying", [one, a_while, two, different_ones])
def test_at_the_worker(comfyui: ComfyUI, listed: Callable[[Model], str], applying: Applying) -> None:
    told = residuals_told(comfyui)
    sampling = Sampling(seed=631, steps=3)
    batch = 2 if applying is different_ones else 1
    expected = assert_stock(comfyui, listed(UNET), (applying, applying), sampling, batch=batch)
    assert residuals_told(comfyui) == told
    without = Scene.of(TINY, batch=batch)
    without.sample("KSampler", without.workflow.local(TINY), sampling, "without")
    comfyui.run(without.workflow.graph)
    assert (expected - comfyui.saved("without")).abs().max() > 0.05


@pytest.mark.each_release
@pytest.mark.parametrize(
    ("model", "applying"),
    [(DIT, with_vae), (THREE_BLOCKS, adapter), (TINY, control_lora)],
    ids=["SD3", "T2I", "Control-LoRA"],
)
def test_other_kinds_at_the_worker(
    comfyui: ComfyUI, listed: Callable[[Model], str], model: Model, applying: Applying
) -> None:
    assert_stock(comfyui, listed(model), (applying, applying), Sampling(seed=641, steps=2), model=model)


def test_one_that_runs_here_before_one_at_the_worker(
    comfyui: ComfyUI, listed: Callable[[Model], str], proxy: Proxy
) -> None:
    def mixed(scene: Scene, load: Load) -> None:
        apply(scene, stock(scene, EDGES), image(scene, 2), strength=0.5, times=(0.0, 0.6))
        apply(scene, load(scene, DEPTH), image(scene, 3), strength=0.9, times=(0.3, 1.0))

    told = residuals_told(comfyui)
    assert_stock(comfyui, listed(UNET), (mixed, mixed), Sampling(seed=651, steps=3), ("each step", "auto"))
    assert residuals_told(comfyui) == told + 2
    assert proxy.exchanges("sample") == []


def refused(comfyui: ComfyUI, scene: Scene, kind: str) -> str:
    outcome = comfyui.api.run(scene.workflow.graph)
    assert outcome.error is not None, outcome.summary
    assert outcome.error["exception_type"].endswith(kind), outcome.summary
    return outcome.error_message


def test_one_that_runs_here_after_one_at_the_worker_is_refused(
    comfyui: ComfyUI, listed: Callable[[Model], str], proxy: Proxy
) -> None:
    scene = Scene.of(TINY)
    one(scene, at_worker)
    one(scene, stock)
    scene.sample("KSampler", scene.workflow.remote(listed(UNET)), Sampling(seed=661, steps=2), "refused")
    assert "Apply the one that runs here first" in refused(comfyui, scene, "RemoteControlNetError")
    assert proxy.exchanges("forward") == []


def test_one_at_the_worker_is_refused_for_a_model_that_is_here(comfyui: ComfyUI, proxy: Proxy) -> None:
    scene = Scene.of(TINY)
    one(scene, at_worker)
    scene.sample("KSampler", scene.workflow.local(TINY), Sampling(seed=671, steps=2), "refused")
    assert "Load the model with Remote Model Loader" in refused(comfyui, scene, "RemoteControlNetError")
    assert proxy.exchanges("forward") == []


def test_one_that_the_worker_does_not_have(comfyui: ComfyUI) -> None:
    scene = Scene.of(TINY)
    apply(scene, at_worker(scene, "../../secret.safetensors"), image(scene))
    scene.workflow.add("PreviewAny", source=scene.positive)
    assert "There is no ControlNet" in refused(comfyui, scene, "UnknownModelError")


@pytest.mark.parametrize("use_runpod", [True, False])
def test_one_that_is_added_to_a_models_weights_is_refused_by_name(comfyui: ComfyUI, use_runpod: bool) -> None:
    scene = Scene.of(TINY)
    net = scene.workflow.add("RemoteControlNetLoader", control_net_name="diff.safetensors", use_runpod=use_runpod)
    apply(scene, net, image(scene))
    scene.workflow.add("PreviewAny", source=scene.positive)
    said = refused(comfyui, scene, "Error")
    assert "diff.safetensors holds what a ControlNet adds to a model's own weights" in said
    assert "Load ControlNet Model (diff)" in said


def test_comfyuis_loader_of_such_a_one_is_refused_for_a_model_at_the_worker(
    comfyui: ComfyUI, listed: Callable[[Model], str]
) -> None:
    scene = Scene.of(TINY)
    remote = scene.workflow.remote(listed(UNET))
    apply(
        scene,
        scene.workflow.add("DiffControlNetLoader", model=remote, control_net_name="diff.safetensors"),
        image(scene),
    )
    scene.workflow.add("PreviewAny", source=scene.positive)
    said = refused(comfyui, scene, "RemoteWeightError")
    assert re.match(r"nodes: DiffControlNetLoader\.load_controlnet cannot read or change diffusion_model\.", said)
    assert '"run on the worker" off' in said


def test_what_the_workers_comfyui_warns_of_is_shown_on_the_loader(comfyui: ComfyUI) -> None:
    scene = Scene.of(TINY)
    net = at_worker(scene, "partial.safetensors")
    apply(scene, net, image(scene))
    scene.workflow.add("PreviewAny", source=scene.positive)
    shown = shown_while_running(comfyui.api.url, scene.workflow.graph)
    warned = "on the worker. ComfyUI warned there: missing controlnet keys: ['zero_convs.1.0.bias']"
    assert warned in shown[net[0]].texts


@pytest.mark.each_release
def test_the_loader_can_load_here(comfyui: ComfyUI) -> None:
    def loaded_here(scene: Scene, _: Load) -> None:
        one(
            scene, lambda *_: scene.workflow.add("RemoteControlNetLoader", control_net_name=EDGES, use_runpod=False)
        )

    scene, sampling = Scene.of(TINY), Sampling(seed=681, steps=2)
    plain = (scene.positive, scene.negative)
    for name, applying in (("theirs", one), ("ours", loaded_here)):
        scene.positive, scene.negative = plain
        applying(scene, stock)
        scene.sample("KSampler", scene.workflow.local(TINY), sampling, name)
    comfyui.run(scene.workflow.graph)
    assert_identical(comfyui.saved("theirs"), comfyui.saved("ours"))


@pytest.mark.parametrize("offload", ["each step", WHOLE])
def test_the_picture_crosses_once(
    comfyui: ComfyUI, listed: Callable[[Model], str], proxy: Proxy, offload: str
) -> None:
    picture = 90 if offload == WHOLE else 91
    route = "sample" if offload == WHOLE else "forward"

    def sent(seed: int, strength: float | None, times: tuple[float, float] = (0.0, 1.0)) -> list[int]:
        scene = Scene.of(TINY, seed=691)
        if strength is not None:
            apply(scene, at_worker(scene, EDGES), image(scene, picture), strength, times)
        remote = scene.workflow.remote(listed(UNET))
        proxy.forget()
        scene.sample("RemoteSampler", remote, Sampling(seed=seed, steps=2), f"{seed}", offload=offload)
        comfyui.run(scene.workflow.graph)
        return [exchange.up_bytes for exchange in proxy.exchanges(route)]

    sent(691, None)
    plain, first = sent(692, None), sent(693, 0.8)
    assert plain[0] + PICTURE_BYTES < first[0] < plain[0] + PICTURE_BYTES + 2000
    # A later step, a second run, another strength and other times send a name of it.
    later = first[1:] + sent(694, 0.8) + sent(695, 0.4) + sent(696, 0.4, (0.1, 0.9))
    assert max(later) < max(plain) + 2000 < PICTURE_BYTES
