"""Remote Sampler's whole loop: the sampling runs at the worker, and all else is as with KSampler."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from .harness.comparison import Patch, assert_identical, assert_whole_is_stock, unpatched
from .harness.events import shown_while_running
from .harness.proxy import Proxy
from .harness.site import ComfyUI, Site
from .harness.workflow import DIGITS, LTXV, MMDIT, MODELS, UNET, WAN, Link, Model, Sampling, Scene, Workflow

pytestmark = pytest.mark.comfyui

WHOLE = "whole loop"
# Keeps the last step's sigma, and so runs in the loop that is here.
APG = {"eta": 1.0, "norm_threshold": 5.0, "momentum": 0.5}
SAMPLINGS = (
    Sampling(seed=401, steps=4),
    Sampling(seed=402, sampler_name="dpmpp_2m_sde", scheduler="karras"),
    Sampling(seed=403, sampler_name="uni_pc", scheduler="simple", cfg=1.0),
)


@pytest.mark.each_release
@pytest.mark.parametrize("model", MODELS, ids=str)
def test_every_model(comfyui: ComfyUI, proxy: Proxy, listed: Callable[[Model], str], model: Model) -> None:
    assert_whole_is_stock(comfyui, proxy, Scene.of(model), listed(model), SAMPLINGS)


def sd3(workflow: Workflow, model: Link) -> Link:
    return workflow.add("ModelSamplingSD3", model=model, shift=1.5)


def lcm(workflow: Workflow, model: Link) -> Link:
    return workflow.add("ModelSamplingDiscrete", model=model, sampling="lcm", zsnr=False)


def continuous(workflow: Workflow, model: Link) -> Link:
    return workflow.add(
        "ModelSamplingContinuousEDM", model=model, sampling="v_prediction", sigma_max=80.0, sigma_min=0.01
    )


def flux(workflow: Workflow, model: Link) -> Link:
    shift = workflow.add("ModelSamplingFlux", model=model, max_shift=1.2, base_shift=0.4, width=512, height=768)
    return sd3(workflow, shift)


def _name(each: object) -> str:
    return getattr(each, "__name__", str(each))


@pytest.mark.parametrize(
    ("model", "patch"), [(MMDIT, sd3), (UNET, lcm), (UNET, continuous), (WAN, flux)], ids=_name
)
def test_a_patched_schedule(
    comfyui: ComfyUI, proxy: Proxy, listed: Callable[[Model], str], model: Model, patch: Patch
) -> None:
    tiny = replace(model, latent=(1, 4, 4, 4)) if model is UNET else model
    samplings = (Sampling(seed=411), Sampling(seed=412, sampler_name="lcm", scheduler="sgm_uniform", cfg=1.5))
    assert_whole_is_stock(comfyui, proxy, Scene.of(tiny), listed(model), samplings, patch)


@pytest.mark.parametrize("model", [MMDIT, LTXV], ids=str)
def test_a_masked_batch_that_is_half_denoised(
    comfyui: ComfyUI, proxy: Proxy, listed: Callable[[Model], str], model: Model
) -> None:
    scene = Scene.of(model, latent_seed=5, batch=2)
    height, width = model.latent[-2:]
    part = scene.workflow.add("SolidMask", value=1.0, width=width * 4, height=height * 8)
    empty = scene.workflow.add("SolidMask", value=0.0, width=width * 8, height=height * 8)
    mask = scene.workflow.add("MaskComposite", destination=empty, source=part, x=0, y=0, operation="add")
    scene.latent = scene.workflow.add("SetLatentNoiseMask", samples=scene.latent, mask=mask)
    assert_whole_is_stock(comfyui, proxy, scene, listed(model), (Sampling(seed=421, denoise=0.7),))


@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_a_soft_mask(comfyui: ComfyUI, proxy: Proxy, listed: Callable[[Model], str], strength: float) -> None:
    def differential(workflow: Workflow, model: Link) -> Link:
        return workflow.add("DifferentialDiffusion", model=model, strength=strength)

    scene = Scene.of(MMDIT, latent_seed=5)
    half = scene.workflow.add("SolidMask", value=0.6, width=48, height=128)
    empty = scene.workflow.add("SolidMask", value=0.2, width=96, height=128)
    mask = scene.workflow.add("MaskComposite", destination=empty, source=half, x=0, y=0, operation="add")
    scene.latent = scene.workflow.add("SetLatentNoiseMask", samples=scene.latent, mask=mask)
    assert_whole_is_stock(
        comfyui, proxy, scene, listed(MMDIT), (Sampling(seed=422, steps=5, denoise=0.9),), differential
    )


def test_one_latent_of_a_batch_has_the_noise_that_it_had_there(
    comfyui: ComfyUI, proxy: Proxy, listed: Callable[[Model], str]
) -> None:
    scene = Scene.of(MMDIT, latent_seed=6, batch=3)
    scene.latent = scene.workflow.add("LatentFromBatch", samples=scene.latent, batch_index=2, length=1)
    assert_whole_is_stock(comfyui, proxy, scene, listed(MMDIT))


def test_conditioning_by_area_mask_and_time(comfyui: ComfyUI, proxy: Proxy, listed: Callable[[Model], str]) -> None:
    scene = Scene.of(MMDIT)
    add, made = scene.workflow.add, scene.workflow.conditioning
    area = {"width": 0.5, "height": 0.5, "x": 0.0, "y": 0.5, "strength": 0.9}
    mask = add("SolidMask", value=0.6, width=96, height=128)
    masked = {"mask": mask, "strength": 0.8, "set_cond_area": "default"}
    further = [
        add("ConditioningSetAreaPercentage", conditioning=made(MMDIT, 77), **area),
        add("ConditioningSetMask", conditioning=made(MMDIT, 78), **masked),
        add("ConditioningSetTimestepRange", conditioning=made(MMDIT, 79), start=0.4, end=1.0),
    ]
    for each in further:
        scene.positive = add("ConditioningCombine", conditioning_1=scene.positive, conditioning_2=each)
    assert_whole_is_stock(comfyui, proxy, scene, listed(MMDIT), (SAMPLINGS[0],))


def test_weights_in_fp8(comfyui: ComfyUI, proxy: Proxy, listed: Callable[[Model], str]) -> None:
    assert_whole_is_stock(comfyui, proxy, Scene.of(MMDIT), listed(MMDIT), weight_dtype="fp8_e4m3fn")


def test_each_way_after_the_other(comfyui: ComfyUI, proxy: Proxy, listed: Callable[[Model], str]) -> None:
    # At the worker all runs and calls have one model, and a run's schedule is put on it.
    for number, patch in enumerate((sd3, unpatched)):
        scene = Scene.of(MMDIT)
        local, remote = (patch(scene.workflow, each) for each in _models(scene, listed(MMDIT)))
        sampling = Sampling(seed=431 + number)
        for way, model, node, offload in (
            ("stock", local, "KSampler", ""),
            ("whole", remote, "RemoteSampler", WHOLE),
            ("each", remote, "KSampler", ""),
            ("again", remote, "RemoteSampler", WHOLE),
        ):
            scene.sample(node, model, sampling, way, offload=offload)
        comfyui.run(scene.workflow.graph)
        stock = comfyui.saved("stock")
        for way in ("whole", "each", "again"):
            assert_identical(stock, comfyui.saved(way))


def _models(scene: Scene, listed: str) -> tuple[Link, Link]:
    return scene.workflow.local(scene.model), scene.workflow.remote(listed)


@pytest.mark.each_release
@pytest.mark.parametrize(
    ("node", "inputs", "model", "error", "named"),
    [
        ("APG", APG, MMDIT, "UnsupportedRunError", "APG"),
        (
            "EasyCache",
            {"reuse_threshold": 0.2, "start_percent": 0.1, "end_percent": 0.9, "verbose": False},
            WAN,
            "UnsupportedRunError",
            "EasyCache",
        ),
        (
            "SelfAttentionGuidance",
            {"scale": 0.5, "blur_sigma": 2.0},
            UNET,
            "UnsupportedPatchError",
            "SelfAttentionGuidance",
        ),
    ],
)
def test_code_in_the_loop_is_refused_by_name(
    comfyui: ComfyUI,
    proxy: Proxy,
    listed: Callable[[Model], str],
    node: str,
    inputs: dict[str, object],
    model: Model,
    error: str,
    named: str,
) -> None:
    scene = Scene.of(model)
    remote = scene.workflow.remote(listed(model))
    patched = scene.workflow.add(node, model=remote, **inputs)
    scene.sample("RemoteSampler", patched, Sampling(seed=441), "refused", offload=WHOLE)
    proxy.forget()
    outcome = comfyui.api.run(scene.workflow.graph)
    assert outcome.error is not None, outcome.summary
    assert outcome.error["exception_type"].endswith(error), outcome.summary
    assert named in outcome.error_message
    assert proxy.exchanges("sample") == proxy.exchanges("forward") == []


def test_auto_runs_such_a_model_step_by_step(
    comfyui: ComfyUI, proxy: Proxy, listed: Callable[[Model], str]
) -> None:
    scene = Scene.of(MMDIT)
    local, remote = (scene.workflow.add("APG", model=each, **APG) for each in _models(scene, listed(MMDIT)))
    scene.sample("KSampler", local, Sampling(seed=451), "stock")
    scene.sample("RemoteSampler", remote, Sampling(seed=451), "auto", offload="auto")
    proxy.forget()
    comfyui.run(scene.workflow.graph)
    assert_identical(comfyui.saved("stock"), comfyui.saved("auto"))
    assert (len(proxy.exchanges("sample")), len(proxy.exchanges("forward"))) == (0, 3)


@pytest.mark.each_release
def test_progress_and_previews_are_shown_as_ksamplers_are(comfyui: ComfyUI, listed: Callable[[Model], str]) -> None:
    scene = Scene.of(UNET)
    steps = 5
    local, remote = _models(scene, listed(UNET))
    scene.sample("KSampler", local, Sampling(seed=461, steps=steps), "stock")
    scene.sample("RemoteSampler", remote, Sampling(seed=461, steps=steps), "ours", offload=WHOLE)
    samplers = [name for name, node in scene.workflow.graph.items() if node["class_type"].endswith("Sampler")]
    shown = shown_while_running(comfyui.api.url, scene.workflow.graph)
    stock, ours = (shown[name] for name in samplers)
    assert stock.progress == [(step, steps) for step in range(1, steps + 1)]
    # A browser is spared some steps that come fast; what it is told is in order and has an end.
    assert ours.progress == sorted(set(ours.progress))
    assert set(ours.progress) <= set(stock.progress)
    assert (ours.progress[0], ours.progress[-1]) == (stock.progress[0], stock.progress[-1])
    assert ours.previews
    assert set(ours.previews) == set(stock.previews)


LARGE = replace(UNET, latent=(1, 4, 24, 24))


@pytest.mark.each_release
def test_stop_ends_the_run_at_the_worker_and_the_next_one_runs(site: Site, listed: Callable[[Model], str]) -> None:
    scene = Scene.of(LARGE, seed=471)
    # Some minutes of work.
    endless = Sampling(seed=471, steps=1000)
    scene.sample("RemoteSampler", scene.workflow.remote(listed(UNET)), endless, "stopped", offload=WHOLE)
    site.proxy.forget()
    prompt = site.comfyui.api.queue(scene.workflow.graph)
    site.proxy.wait_for("sample")
    site.worker.process.wait_for_work(0.5)
    site.comfyui.api.interrupt()
    outcome = site.comfyui.api.wait(prompt, timeout_s=10)
    assert outcome.interrupted, outcome.summary
    site.proxy.wait_for("cancel", timeout_s=5)
    # The worker does one thing at a time: this waits for what was stopped.
    assert_whole_is_stock(site.comfyui, site.proxy, Scene.of(DIGITS), listed(DIGITS))


def test_a_worker_killed_in_the_middle_of_a_run_costs_a_run(site: Site, listed: Callable[[Model], str]) -> None:
    sampling = Sampling(seed=481, steps=6)
    expected = Scene.of(LARGE, seed=481)
    expected.sample("KSampler", expected.workflow.local(UNET), sampling, "stock")
    site.comfyui.run(expected.workflow.graph)
    scene = Scene.of(LARGE, seed=481)
    scene.sample("RemoteSampler", scene.workflow.remote(listed(UNET)), sampling, "ours", offload=WHOLE)
    site.proxy.forget()
    prompt = site.comfyui.api.queue(scene.workflow.graph)
    site.proxy.wait_for("sample")
    site.worker.process.wait_for_work(0.5)
    site.worker.process.kill()
    site.worker.begin()
    site.worker.await_ready()
    outcome = site.comfyui.api.wait(prompt)
    assert outcome.succeeded, outcome.summary
    assert_identical(site.comfyui.saved("stock"), site.comfyui.saved("ours"))
    assert len(site.proxy.exchanges("sample")) > 1
