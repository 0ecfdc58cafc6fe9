"""Prompts whose model, text encoder and VAE are all at the worker: they make what stock loaders make."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .harness.comparison import assert_identical, assert_worth_comparing
from .harness.site import Site
from .harness.workflow import Link, Sampling, Workflow

pytestmark = [pytest.mark.comfyui, pytest.mark.each_release]

WHOLE, BOTH = "whole.safetensors", "both.safetensors"
SAMPLING = Sampling(steps=2)
PARTLY = Sampling(steps=3, denoise=0.6)

# Takes a workflow with a MODEL, a CLIP and a VAE, and returns the sampled latent and the picture of it.
Making = Callable[[Workflow, Link, Link, Link], tuple[Link, Link]]


def picture(workflow: Workflow) -> Link:
    return workflow.add("OffloadTestImage", seed=8, count=1, height=128, width=96)


def sampled(workflow: Workflow, model: Link, clip: Link, latent: Link, sampling: Sampling = SAMPLING) -> Link:
    positive, negative = (
        workflow.add("CLIPTextEncode", clip=clip, text=text) for text in ("a (green:1.2) hill", "blurry")
    )
    return workflow.add(
        "KSampler", model=model, positive=positive, negative=negative, latent_image=latent, **vars(sampling)
    )


def decoded(workflow: Workflow, latent: Link, vae: Link) -> tuple[Link, Link]:
    return latent, workflow.add("VAEDecode", samples=latent, vae=vae)


def from_text(workflow: Workflow, model: Link, clip: Link, vae: Link) -> tuple[Link, Link]:
    empty = workflow.latent((1, 4, 16, 12))
    return decoded(workflow, sampled(workflow, model, clip, empty), vae)


def with_one_lora(workflow: Workflow, model: Link, clip: Link, vae: Link) -> tuple[Link, Link]:
    """Patch model and text encoder from one file."""
    node, _ = workflow.add(
        "LoraLoader", model=model, clip=clip, lora_name=BOTH, strength_model=0.9, strength_clip=0.7
    )
    return from_text(workflow, [node, 0], [node, 1], vae)


def with_hooks(workflow: Workflow, model: Link, clip: Link, vae: Link, *, scheduled: bool) -> tuple[Link, Link]:
    """Put a LoRA on text encoder and model by hooks, whose strength changes at half of the run."""
    hooks = workflow.add("CreateHookLora", lora_name=BOTH, strength_model=-1.8, strength_clip=1.6)
    keyframes = None
    for strength, start in ((1.0, 0.0), (0.3, 0.5)):
        given = {} if keyframes is None else {"prev_hook_kf": keyframes}
        keyframes = workflow.add("CreateHookKeyframe", strength_mult=strength, start_percent=start, **given)
    hooks = workflow.add("SetHookKeyframes", hooks=hooks, hook_kf=keyframes)
    hooked = workflow.add("SetClipHooks", clip=clip, apply_to_conds=True, schedule_clip=scheduled, hooks=hooks)
    return from_text(workflow, model, hooked, vae)


def hooked(workflow: Workflow, model: Link, clip: Link, vae: Link) -> tuple[Link, Link]:
    return with_hooks(workflow, model, clip, vae, scheduled=False)


def hooked_by_schedule(workflow: Workflow, model: Link, clip: Link, vae: Link) -> tuple[Link, Link]:
    return with_hooks(workflow, model, clip, vae, scheduled=True)


def from_a_picture(workflow: Workflow, model: Link, clip: Link, vae: Link) -> tuple[Link, Link]:
    latent = workflow.add("VAEEncode", pixels=picture(workflow), vae=vae)
    return decoded(workflow, sampled(workflow, model, clip, latent, PARTLY), vae)


def inpainted(workflow: Workflow, model: Link, clip: Link, vae: Link) -> tuple[Link, Link]:
    pixels = picture(workflow)
    mask = workflow.add("ImageToMask", image=pixels, channel="green")
    latent = workflow.add("VAEEncodeForInpaint", pixels=pixels, vae=vae, mask=mask, grow_mask_by=4)
    return decoded(workflow, sampled(workflow, model, clip, latent), vae)


def tiled(workflow: Workflow, model: Link, clip: Link, vae: Link) -> tuple[Link, Link]:
    sizes = {"tile_size": 64, "overlap": 16, "temporal_size": 64, "temporal_overlap": 8}
    latent = workflow.add("VAEEncodeTiled", pixels=picture(workflow), vae=vae, **sizes)
    latent = sampled(workflow, model, clip, latent, PARTLY)
    return latent, workflow.add("VAEDecodeTiled", samples=latent, vae=vae, **sizes)


MAKINGS = (from_text, with_one_lora, hooked, hooked_by_schedule, from_a_picture, inpainted, tiled)


def test_everything_is_as_with_stock_loaders(with_clip: Site) -> None:
    workflow = Workflow()
    loaders = {
        "stock": workflow.add("CheckpointLoaderSimple", ckpt_name=WHOLE),
        "remote": workflow.add("RemoteCheckpointLoader", ckpt_name=WHOLE, use_runpod=True),
    }
    for side, (node, _) in loaders.items():
        for make in MAKINGS:
            latent, image = make(workflow, [node, 0], [node, 1], [node, 2])
            workflow.save(latent, f"{side}-{make.__name__}")
            # Encoded again by the stock VAE, in which pictures that differ have other latents.
            again = workflow.add("VAEEncode", pixels=image, vae=[loaders["stock"][0], 2])
            workflow.save(again, f"{side}-{make.__name__}-picture")
    with_clip.comfyui.run(workflow.graph, timeout_s=900)
    names = [f"{make.__name__}{kind}" for make in MAKINGS for kind in ("", "-picture")]
    stock = {name: with_clip.comfyui.saved(f"stock-{name}") for name in names}
    latents = {make.__name__: stock[make.__name__] for make in MAKINGS}
    assert_worth_comparing(latents, dict.fromkeys(latents, SAMPLING))
    for name in names:
        assert_identical(stock[name], with_clip.comfyui.saved(f"remote-{name}"))
