"""Runs of every kind, each sampled whole and by ComfyUI's own `common_ksampler`."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

import comfy.model_patcher
import torch
from comfy_extras import nodes_model_advanced as advanced
from sides import LTXAV, LTXV, MMDIT, UNET, WAN, Case, both, case, condition, node, noise

SAMPLERS = ("euler", "heun", "dpmpp_2m", "uni_pc", "euler_ancestral", "dpmpp_sde", "dpmpp_2m_sde", "ddim")
ROPE = {"scale_x": 1.5, "scale_y": 0.8, "scale_t": 1.0, "shift_x": 0.0, "shift_y": 1.0, "shift_t": 0.0}
SCHEDULERS = ("normal", "karras", "simple", "beta", "sgm_uniform")


def compare(this: Case) -> dict[str, Any]:
    stock, ours = both(this)
    mine, theirs = parts_of(ours["samples"]), parts_of(stock["samples"])
    return {
        "equal": len(mine) == len(theirs) and all(map(same, mine, theirs)),
        "keys": sorted(ours) == sorted(stock),
        "finite": all(bool(part.isfinite().all()) for part in theirs),
        "spread": min(float(part.std()) for part in theirs),
        "first": [round(float(value), 3) for value in theirs[0].flatten()[:4]],
    }


def parts_of(samples: Any) -> list[torch.Tensor]:
    return [samples] if isinstance(samples, torch.Tensor) else samples.tensors


def same(mine: torch.Tensor, theirs: torch.Tensor) -> bool:
    return torch.equal(mine, theirs) and (mine.dtype, mine.stride()) == (theirs.dtype, theirs.stride())


def of_samplers() -> Iterator[tuple[str, Case]]:
    for index, sampler in enumerate(SAMPLERS):
        for scheduler in SCHEDULERS:
            yield f"{sampler} {scheduler}", case(MMDIT, sampler=sampler, scheduler=scheduler)
        yield f"{sampler} unet", case(UNET, sampler=sampler, scheduler=SCHEDULERS[index % len(SCHEDULERS)], steps=2)


def of_model_sampling() -> Iterator[tuple[str, Case]]:
    yield "ModelSamplingSD3", case(MMDIT, node(advanced.ModelSamplingSD3, shift=1.5))
    yield "ModelSamplingAuraFlow", case(MMDIT, node(advanced.ModelSamplingAuraFlow, shift=1.7))
    flux = node(advanced.ModelSamplingFlux, max_shift=1.2, base_shift=0.4, width=512, height=768)
    yield "ModelSamplingFlux", case(MMDIT, flux)
    yield "ModelSamplingStableCascade", case(UNET, node(advanced.ModelSamplingStableCascade, shift=2.5))
    for kind in ("eps", "v_prediction", "lcm", "x0"):
        for zsnr in (False, True):
            patch = node(advanced.ModelSamplingDiscrete, sampling=kind, zsnr=zsnr)
            yield f"ModelSamplingDiscrete {kind} zsnr={zsnr}", case(UNET, patch, steps=2)
    lcm = node(advanced.ModelSamplingDiscrete, sampling="lcm", zsnr=False)
    yield "the lcm sampler", case(UNET, lcm, sampler="lcm", scheduler="sgm_uniform", cfg=1.5)
    for kind in ("v_prediction", "edm", "eps", "cosmos_rflow"):
        patch = node(advanced.ModelSamplingContinuousEDM, sampling=kind, sigma_max=80.0, sigma_min=0.01)
        yield f"ModelSamplingContinuousEDM {kind}", case(UNET, patch, scheduler="karras", steps=2)
    continuous = node(advanced.ModelSamplingContinuousV, sampling="v_prediction", sigma_max=400.0, sigma_min=0.05)
    yield "ModelSamplingContinuousV", case(UNET, continuous, scheduler="exponential", steps=2)
    if hasattr(advanced, "ModelNoiseScale"):
        yield "ModelNoiseScale", case(MMDIT, node(advanced.ModelNoiseScale, noise_scale=1.3))


def of_latents() -> Iterator[tuple[str, Case]]:
    some = {"samples": noise(MMDIT.latent, 3)}
    yield "half denoised", case(MMDIT, latent=some, denoise=0.6)
    yield "nothing to denoise", case(MMDIT, latent=some, denoise=0.0)
    yield "no guidance", case(MMDIT, cfg=1.0)
    yield "the largest seed", case(MMDIT, seed=2**64 - 1)
    yield "a latent with too few channels", case(MMDIT, latent={"samples": torch.zeros(1, 4, 8, 6)})
    yield "an odd size", case(MMDIT, latent={"samples": torch.zeros(1, 16, 7, 5)})
    mask = torch.zeros(1, 64, 48)
    mask[:, :32] = 1.0
    yield "a mask", case(MMDIT, latent={**some, "noise_mask": mask}, denoise=0.8)
    yield "a mask, ddim", case(MMDIT, latent={**some, "noise_mask": mask}, sampler="ddim", denoise=0.8)
    yield "a mask, uni_pc", case(MMDIT, latent={**some, "noise_mask": mask}, sampler="uni_pc")
    three = {"samples": noise((3, *MMDIT.latent[1:]), 4)}
    yield "a batch", case(MMDIT, latent=three)
    yield "a batch with its indices", case(MMDIT, latent={**three, "batch_index": [0, 5, 2]})
    yield "a batch with one index twice", case(MMDIT, latent={**three, "batch_index": [1, 1, 0]}, denoise=0.7)
    last = {"samples": noise(UNET.latent, 9).to(memory_format=torch.channels_last)}
    yield "a latent with its channels last", case(UNET, latent=last, denoise=0.6)
    yield "a latent with its channels last, without noise", case(UNET, latent=last, denoise=0.6, disable_noise=True)
    part = {"samples": noise((2, 8, 6, 6), 10)[:, 2:6, 1:5, 1:5]}
    yield "a part of a latent, without noise", case(UNET, latent=part, denoise=0.6, disable_noise=True)
    yield "in half precision", case(MMDIT, latent={"samples": noise(MMDIT.latent, 6).half()}, denoise=0.5)
    yield "video", case(WAN)
    yield "video, sde", case(WAN, sampler="dpmpp_2m_sde", scheduler="simple")
    yield "video of one picture", case(WAN, latent={"samples": torch.zeros(1, 16, 4, 4)})
    yield (
        "video with a mask",
        case(LTXV, latent={"samples": noise(LTXV.latent, 8), "noise_mask": torch.ones(1, 1, 2, 1, 1)}, denoise=0.5),
    )
    yield "further keys of the latent", case(MMDIT, latent={"type": "image", "downscale_ratio_spacial": 8})


def of_steps() -> Iterator[tuple[str, Case]]:
    some = {"samples": noise(MMDIT.latent, 3)}
    whole = {"steps": 6, "force_full_denoise": True}
    yield "the first steps", case(MMDIT, **{**whole, "force_full_denoise": False}, start_step=0, last_step=3)
    yield "the last steps", case(MMDIT, latent=some, **whole, start_step=3, last_step=10_000, disable_noise=True)
    yield "steps in the middle", case(MMDIT, latent=some, **whole, start_step=2, last_step=4, sampler="heun")
    yield "no steps", case(MMDIT, latent=some, **whole, start_step=6, last_step=10_000)
    yield "dpm_adaptive", case(MMDIT, sampler="dpm_adaptive")
    yield "dpm_fast", case(MMDIT, sampler="dpm_fast")
    yield "restarted without noise", case(MMDIT, latent=some, disable_noise=True, denoise=0.5)


def of_conditioning() -> Iterator[tuple[str, Case]]:
    plain = case(MMDIT)
    options = {
        "an area": {"area": (4, 6, 2, 0), "strength": 0.8},
        "an area in percent": {"area": ("percentage", 0.5, 1.0, 0.5, 0.0), "set_area_to_bounds": False},
        "a time": {"start_percent": 0.2, "end_percent": 0.7},
        "a mask": {"mask": torch.ones(1, 64, 48), "mask_strength": 0.5, "set_area_to_bounds": False},
        "a mask's bounds": {"mask": torch.eye(64)[None, :, :48], "mask_strength": 0.9, "set_area_to_bounds": True},
    }
    for index, (name, further) in enumerate(options.items()):
        both = [*plain.positive, condition(MMDIT, 30 + index, **further)]
        yield f"conditioning with {name}", Case(MMDIT, plain.latent, both, plain.negative)
    default = [condition(MMDIT, 50, area=(4, 6, 0, 0)), condition(MMDIT, 51, default=True)]
    yield "conditioning with a default", Case(MMDIT, plain.latent, default, plain.negative)
    yield "no conditioning without guidance", Case(MMDIT, plain.latent, plain.positive, [], fields={"cfg": 1.0})


def of_options() -> Iterator[tuple[str, Case]]:
    def without_shortcut(model: Any) -> Any:
        changed = model.clone()
        changed.model_options["disable_cfg1_optimization"] = True
        return changed

    def scaled(model: Any) -> Any:
        changed = model.clone()
        changed.model_options["transformer_options"]["rope_options"] = ROPE
        return changed

    yield "both sides though there is no guidance", case(MMDIT, without_shortcut, cfg=1.0, seed=6)
    if hasattr(comfy.model_patcher.ModelPatcher, "set_model_rope_options"):
        yield "scaled positions", case(WAN, scaled)


def of_audio_with_video() -> Iterator[tuple[str, Case]]:
    if importlib.util.find_spec("comfy.ldm.lightricks.av_model") is None:
        return
    nested = importlib.import_module("comfy.nested_tensor").NestedTensor
    picture, sound = (1, 128, 2, 3, 2), (1, 8, 5, 16)
    empty = {"samples": nested([torch.zeros(picture), torch.zeros(sound)])}
    some = nested([noise(picture, 61), noise(sound, 62)])
    mask = nested([torch.ones(1, 1, 2, 1, 1), torch.zeros(1, 1, 5, 16)])
    yield "audio with video", case(LTXAV, latent=empty)
    yield "audio with video, sde", case(LTXAV, latent=empty, sampler="dpmpp_2m_sde", scheduler="simple")
    yield "audio that stays, with video", case(LTXAV, latent={"samples": some, "noise_mask": mask}, denoise=0.6)
    yield "audio with video, no noise", case(LTXAV, latent={"samples": some}, disable_noise=True, denoise=0.6)


def equality() -> dict[str, Any]:
    groups = (
        of_samplers,
        of_model_sampling,
        of_latents,
        of_steps,
        of_conditioning,
        of_options,
        of_audio_with_video,
    )
    return {name: compare(this) for group in groups for name, this in group()}
