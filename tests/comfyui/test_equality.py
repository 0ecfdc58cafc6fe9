"""Remote equals local, bit for bit, in prompts as a user would send them."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from .harness.comparison import (
    Patch,
    assert_identical,
    assert_remote_equals_local,
    assert_worth_comparing,
    unpatched,
)
from .harness.proxy import Proxy
from .harness.site import ComfyUI
from .harness.workflow import DIGITS, LTXV, MMDIT, MODELS, UNET, WAN, Link, Model, Sampling, Scene, Workflow

pytestmark = pytest.mark.comfyui

ODD_MMDIT = replace(MMDIT, latent=(1, 16, 15, 11))
ODD_WAN = replace(WAN, latent=(1, 16, 3, 7, 9))
SAMPLERS = ("euler", "heun", "dpmpp_2m", "uni_pc", "euler_ancestral", "dpmpp_sde")


@pytest.mark.each_release
@pytest.mark.parametrize("model", MODELS, ids=str)
def test_every_model_with_every_sampler(comfyui: ComfyUI, listed: Callable[[Model], str], model: Model) -> None:
    samplings = {name: Sampling(sampler_name=name) for name in SAMPLERS}
    samplings["another seed"] = Sampling(seed=2)
    assert_remote_equals_local(comfyui, Scene.of(model), listed(model), samplings)


def model_sampling_sd3(workflow: Workflow, model: Link) -> Link:
    return workflow.add("ModelSamplingSD3", model=model, shift=1.5)


def rescale_cfg(workflow: Workflow, model: Link) -> Link:
    return workflow.add("RescaleCFG", model=model, multiplier=0.7)


def v_prediction(workflow: Workflow, model: Link) -> Link:
    return workflow.add("ModelSamplingDiscrete", model=model, sampling="v_prediction", zsnr=True)


@pytest.mark.parametrize(
    ("model", "sampling", "patch"),
    [
        pytest.param(DIGITS, Sampling(cfg=1.0), unpatched, id="digits without guidance"),
        pytest.param(UNET, Sampling(cfg=1.0), unpatched, id="unet without guidance"),
        pytest.param(DIGITS, Sampling(), model_sampling_sd3, id="ModelSamplingSD3"),
        pytest.param(WAN, Sampling(scheduler="beta"), model_sampling_sd3, id="ModelSamplingSD3 on wan"),
        pytest.param(UNET, Sampling(), rescale_cfg, id="RescaleCFG"),
        pytest.param(UNET, Sampling(scheduler="karras"), v_prediction, id="v prediction"),
        # The network pads what its patches do not divide, and cuts its result: a tensor with gaps.
        pytest.param(ODD_MMDIT, Sampling(), rescale_cfg, id="an odd size"),
        pytest.param(ODD_WAN, Sampling(), rescale_cfg, id="an odd size of video"),
        pytest.param(ODD_WAN, Sampling(sampler_name="dpm_adaptive"), unpatched, id="an odd size, adaptive steps"),
    ],
)
def test_settings_and_patches_of_the_sampling(
    comfyui: ComfyUI, listed: Callable[[Model], str], model: Model, sampling: Sampling, patch: Patch
) -> None:
    latents = assert_remote_equals_local(comfyui, Scene.of(model), listed(model), {"plain": sampling}, patch)
    assert_worth_comparing(latents, {"plain": sampling})


def test_a_patch_ends_with_its_prompt(comfyui: ComfyUI, listed: Callable[[Model], str]) -> None:
    # ComfyUI keeps the loader's output from prompt to prompt, and all its clones share one model.
    for patch in (model_sampling_sd3, unpatched, rescale_cfg):
        assert_remote_equals_local(comfyui, Scene.of(MMDIT), listed(MMDIT), {"plain": Sampling(seed=31)}, patch)


@pytest.mark.parametrize("model", [MMDIT, WAN, UNET], ids=str)
def test_a_batch_that_is_only_half_denoised(comfyui: ComfyUI, listed: Callable[[Model], str], model: Model) -> None:
    scene = Scene.of(model, batch=2, latent_seed=5)
    latents = assert_remote_equals_local(comfyui, scene, listed(model), {"half": Sampling(denoise=0.6)})
    first, second = latents["half"]
    assert not torch.allclose(first, second)


@pytest.mark.parametrize("model", [MMDIT, LTXV, UNET], ids=str)
def test_a_masked_latent(comfyui: ComfyUI, listed: Callable[[Model], str], model: Model) -> None:
    scene = Scene.of(model, latent_seed=5)
    height, width = model.latent[-2:]
    mask = scene.workflow.add("SolidMask", value=1.0, width=width * 4, height=height * 8)
    empty = scene.workflow.add("SolidMask", value=0.0, width=width * 8, height=height * 8)
    mask = scene.workflow.add("MaskComposite", destination=empty, source=mask, x=0, y=0, operation="add")
    scene.latent = scene.workflow.add("SetLatentNoiseMask", samples=scene.latent, mask=mask)
    assert_remote_equals_local(comfyui, scene, listed(model), {"masked": Sampling(denoise=0.8)})


@pytest.mark.each_release
@pytest.mark.parametrize("model", [MMDIT, UNET], ids=str)
def test_conditioning_by_area_and_time(comfyui: ComfyUI, listed: Callable[[Model], str], model: Model) -> None:
    scene = Scene.of(model)
    workflow = scene.workflow
    area = workflow.add(
        "ConditioningSetAreaPercentage",
        conditioning=workflow.conditioning(model, 77),
        width=0.5,
        height=0.5,
        x=0.0,
        y=0.5,
        strength=1.0,
    )
    late = workflow.add(
        "ConditioningSetTimestepRange", conditioning=workflow.conditioning(model, 78), start=0.4, end=1.0
    )
    both = workflow.add("ConditioningCombine", conditioning_1=scene.positive, conditioning_2=area)
    scene.positive = workflow.add("ConditioningCombine", conditioning_1=both, conditioning_2=late)
    assert_remote_equals_local(comfyui, scene, listed(model), {"regional": Sampling(steps=4)})


@pytest.mark.each_release
@pytest.mark.parametrize("weight_dtype", ["fp8_e4m3fn", "fp8_e5m2"])
def test_weights_in_fp8(comfyui: ComfyUI, listed: Callable[[Model], str], weight_dtype: str) -> None:
    assert_remote_equals_local(
        comfyui, Scene.of(MMDIT), listed(MMDIT), {weight_dtype: Sampling()}, weight_dtype=weight_dtype
    )


def easycache(workflow: Workflow, model: Link) -> Link:
    return workflow.add(
        "EasyCache", model=model, reuse_threshold=2.0, start_percent=0.1, end_percent=0.95, verbose=False
    )


@pytest.mark.parametrize("model", [WAN, LTXV, UNET], ids=str)
def test_easycache_spares_the_worker_calls(
    comfyui: ComfyUI, listed: Callable[[Model], str], proxy: Proxy, model: Model
) -> None:
    steps = 8
    samplings = {"cached": Sampling(steps=steps)}
    assert_remote_equals_local(comfyui, Scene.of(model), listed(model), samplings, easycache)
    # Twice: once under KSampler, once under Remote Sampler.
    assert len(proxy.exchanges("forward")) < 2 * steps


def test_easycache_does_nothing_where_it_does_nothing_locally(
    comfyui: ComfyUI, listed: Callable[[Model], str], proxy: Proxy
) -> None:
    # SD3's network runs no such wrappers, in any ComfyUI release so far.
    samplings = {"not cached": Sampling(steps=4)}
    assert_remote_equals_local(comfyui, Scene.of(MMDIT), listed(MMDIT), samplings, easycache)
    assert len(proxy.exchanges("forward")) == 2 * 4


@pytest.mark.each_release
def test_a_custom_sampler_and_guider(comfyui: ComfyUI, listed: Callable[[Model], str]) -> None:
    scene = Scene.of(DIGITS)
    workflow = scene.workflow
    models = {"local": workflow.local(DIGITS), "remote": workflow.remote(listed(DIGITS))}
    for name, model in models.items():
        guider = workflow.add("CFGGuider", model=model, positive=scene.positive, negative=scene.negative, cfg=3.0)
        sampled = workflow.add(
            "SamplerCustomAdvanced",
            noise=workflow.add("RandomNoise", noise_seed=3),
            guider=guider,
            sampler=workflow.add("KSamplerSelect", sampler_name="res_multistep"),
            sigmas=workflow.add("BasicScheduler", model=model, scheduler="simple", steps=4, denoise=1.0),
            latent_image=scene.latent,
        )
        workflow.save(sampled, name)
    comfyui.run(workflow.graph)
    local = comfyui.saved("local")
    assert_identical(local, comfyui.saved("remote"))
    assert_worth_comparing({"local": local}, {"local": Sampling(seed=3)})


@pytest.mark.each_release
@pytest.mark.parametrize("model", [DIGITS, MODELS[-1]], ids=str)
def test_use_runpod_off_loads_the_same_file_here(
    comfyui: ComfyUI, listed: Callable[[Model], str], proxy: Proxy, model: Model
) -> None:
    scene = Scene.of(model)
    scene.sample("KSampler", scene.workflow.local(model), Sampling(seed=21), "stock")
    ours = scene.workflow.remote(listed(model), use_runpod=False)
    scene.sample("KSampler", ours, Sampling(seed=21), "ours")
    comfyui.run(scene.workflow.graph)
    assert_identical(comfyui.saved("stock"), comfyui.saved("ours"))
    assert proxy.exchanges("forward") == []


@pytest.mark.parametrize("offload", ["auto", "each step"])
def test_the_remote_sampler_is_ksampler_to_a_local_model(comfyui: ComfyUI, proxy: Proxy, offload: str) -> None:
    scene = Scene.of(DIGITS)
    model = scene.workflow.local(DIGITS)
    scene.sample("KSampler", model, Sampling(seed=22), "stock")
    scene.sample("RemoteSampler", model, Sampling(seed=22), "ours", offload=offload)
    comfyui.run(scene.workflow.graph)
    assert_identical(comfyui.saved("stock"), comfyui.saved("ours"))
    assert proxy.exchanges("forward") == []


@pytest.mark.each_release
@pytest.mark.parametrize(("offload", "calls", "jobs"), [("each step", 4, 0), ("whole loop", 0, 1), ("auto", 0, 1)])
def test_each_way_of_the_remote_sampler(
    comfyui: ComfyUI, listed: Callable[[Model], str], proxy: Proxy, offload: str, calls: int, jobs: int
) -> None:
    scene = Scene.of(DIGITS)
    scene.sample("KSampler", scene.workflow.local(DIGITS), Sampling(seed=23, steps=4), "stock")
    remote = scene.workflow.remote(listed(DIGITS))
    scene.sample("RemoteSampler", remote, Sampling(seed=23, steps=4), "ours", offload=offload)
    comfyui.run(scene.workflow.graph)
    assert_identical(comfyui.saved("stock"), comfyui.saved("ours"))
    assert (len(proxy.exchanges("forward")), len(proxy.exchanges("sample"))) == (calls, jobs)
