"""A backend with whole runs: between other calls, when cancelled, with previews, with wrong jobs."""

from __future__ import annotations

import gc
import io
from collections.abc import Callable, Mapping
from typing import Any

import comfy.clip_vision
import comfy.model_management
import comfy.sample
import torch
from comfy_extras import nodes_model_advanced as advanced
from PIL import Image
from sides import (
    BACKEND,
    MMDIT,
    SIDES,
    UNET,
    WAN,
    Kind,
    both,
    case,
    condition,
    job_of,
    node,
    noise,
    over_the_wire,
    sample_whole,
    settings,
)

from comfy_gpu_offload.backends.base import BackendError, HookSet, ModuleCall, PatchSet
from comfy_gpu_offload.comfyui.client.sampling.sample_job import job_tree
from comfy_gpu_offload.comfyui.client.sampling.whole_loop import run_whole_loop
from comfy_gpu_offload.comfyui.wire import model_sampling
from comfy_gpu_offload.comfyui.worker import sampling as comfyui_sampling
from comfy_gpu_offload.protocol.messages import ModelRef


def forward_once(patches: PatchSet | None = None, hooks: HookSet | None = None) -> torch.Tensor:
    """Return the result of a forward call, as each-step mode makes it."""
    description = SIDES.remote(MMDIT).remote.description
    dtype = getattr(torch, description.compute_dtype)
    context, pooled = noise((1, 6, MMDIT.width), 70).to(dtype), noise((1, MMDIT.pooled), 71).to(dtype)
    args = (noise(MMDIT.latent, 72).to(dtype), torch.tensor([500.0]))
    kwargs = {"context": context, "y": pooled, "transformer_options": {}}
    result: torch.Tensor
    call = ModuleCall(description.ref, description.fingerprint, args, kwargs, patches=patches, hooks=hooks)
    result = BACKEND.forward(call).result
    return result


def independence() -> dict[str, Any]:
    """Compare patched runs, plain runs and forward calls of one loaded model, one after another."""
    patched = case(MMDIT, node(advanced.ModelSamplingSD3, shift=0.6))
    before = forward_once()
    first = both(case(MMDIT))[1]["samples"]
    other = both(patched)[1]["samples"]
    model = BACKEND.pool.load(ModelRef(name=MMDIT.file))[0].patcher.model
    same = {
        "forward_same": torch.equal(before, forward_once()),
        "run_same": torch.equal(first, both(case(MMDIT))[1]["samples"]),
        "patch_mattered": not torch.equal(first, other),
    }
    gc.collect()
    loaded = [each for each in comfy.model_management.current_loaded_models if each.model.model is model]
    return {**same, "entries_of_the_model": len(loaded), "patches_left": len(loaded[0].model.object_patches_backup)}


def given() -> dict[str, Any]:
    """Compare runs that are given their noise, or their schedule."""
    this, own = case(MMDIT), noise(MMDIT.latent, 91)
    sigmas = torch.tensor([0.9, 0.7, 0.4, 0.2])
    found = {}
    for name, parts, fields in (
        ("noise", {"noise": own}, {}),
        ("sigmas", {"sigmas": sigmas}, {}),
        ("cut sigmas", {"sigmas": sigmas}, {"last_step": 2, "force_full_denoise": True}),
    ):
        job = job_of(MMDIT, settings(fields))
        tree = job_tree(SIDES.remote(MMDIT), this.positive, this.negative, this.latent, **parts)
        _, arrived = over_the_wire(job, tree)
        ours = BACKEND.sample(job, arrived, lambda *_: None).result
        with torch.inference_mode():
            drawn = comfy.sample.prepare_noise(this.latent["samples"], job.seed)
            stock = comfy.sample.sample(
                SIDES.stock(MMDIT),
                parts.get("noise", drawn),
                job.steps,
                job.cfg,
                job.sampler,
                job.scheduler,
                this.positive,
                this.negative,
                this.latent["samples"],
                sigmas=parts["sigmas"].clone() if "sigmas" in parts else None,
                last_step=job.last_step,
                force_full_denoise=job.force_full_denoise,
                seed=job.seed,
            )
        untouched = "sigmas" not in arrived or torch.equal(arrived["sigmas"], sigmas)
        found[name] = {"equal": torch.equal(ours, stock), "untouched": untouched, "first": float(ours.flatten()[0])}
    return found


def interrupted(kind: Kind, sampler: str, at: str) -> dict[str, Any]:
    """Cancel a run at its second model call, or at the end of its first step; and run the next one."""
    calls: list[int] = []

    def count(*_: Any) -> None:
        calls.append(1)
        if at == "call" and len(calls) == 2:
            BACKEND.interrupt()

    def report(*_: Any) -> None:
        if at == "step":
            BACKEND.interrupt()

    this = case(kind, sampler=sampler, steps=4)
    expected = both(this)[1]["samples"]
    patcher = BACKEND.pool.load(ModelRef(name=kind.file))[0].patcher
    handle = patcher.model.diffusion_model.register_forward_pre_hook(count)
    fields = settings(this.fields)
    given = {"positive": this.positive, "negative": this.negative, "latent": this.latent}
    try:
        run_whole_loop(sample_whole(kind, report), SIDES.remote(kind), fields, **given)
        raised = None
    except BackendError as error:
        raised = type(error).__name__
    finally:
        handle.remove()
        BACKEND.clear_interrupt()
    return {"raised": raised, "calls": len(calls), "next_same": torch.equal(expected, both(this)[1]["samples"])}


def previews() -> dict[str, Any]:
    """Return what is reported of a run, by preview method."""
    found: dict[str, Any] = {}
    large = {"samples": torch.zeros(1, 4, 8, 600)}
    runs = {method: case(UNET, preview=method, steps=2) for method in ("none", "auto", "latent2rgb", "taesd")} | {
        "wide": case(UNET, latent=large, preview="auto", steps=1, cfg=1.0),
        "video": case(WAN, preview="auto", steps=2),
    }
    for name, this in runs.items():
        seen: list[Any] = []

        def report(step: int, of: int, preview: Callable[[], bytes | None], seen: list[Any] = seen) -> None:
            picture = preview()
            seen.append([step, of, None if picture is None else describe(picture)])

        given = {"positive": this.positive, "negative": this.negative, "latent": this.latent}
        with torch.inference_mode():
            run_whole_loop(sample_whole(this.kind, report), SIDES.remote(this.kind), settings(this.fields), **given)
        found[name] = seen
    return found


def describe(picture: bytes) -> list[Any]:
    image = Image.open(io.BytesIO(picture))
    return [image.format, *image.size]


def refusals() -> dict[str, str]:
    """Return the backend's errors for wrong jobs."""
    this = case(MMDIT)
    good = job_tree(SIDES.remote(MMDIT), this.positive, this.negative, this.latent)
    sd3 = node(advanced.ModelSamplingSD3, shift=2.0)(SIDES.remote(MMDIT))
    sampling = model_sampling.describe_sampling(sd3.object_patches["model_sampling"])
    wrong: dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
        "sampler": ({"sampler": "nosuch"}, {}),
        "scheduler": ({"scheduler": "nosuch"}, {}),
        "preview": ({"preview": "nosuch"}, {}),
        "unknown part": ({}, {"surprise": 1}),
        "no latent": ({}, {"latent": None}),
        "latent of ints": ({}, {"latent": torch.zeros(1, 16, 8, 8, dtype=torch.int64)}),
        "conditioning": ({}, {"positive": [[torch.zeros(1, 6, 96)]]}),
        "control": ({}, {"positive": [[torch.zeros(1, 6, 96), {"control": {"a": 1}}]]}),
        "batch_index": ({}, {"batch_index": [2**40]}),
        "wrappers": ({}, {"model_options": {"transformer_options": {"wrappers": {"outer_sample": {"a": [1]}}}}}),
        "functions": ({}, {"model_options": {"sampler_cfg_function": 1}}),
        "class": ({}, {"model_sampling": {**sampling, "classes": ["Popen"]}}),
        "imported class": ({}, {"model_sampling": {**sampling, "classes": ["math"]}}),
        "classes without sigmas": ({}, {"model_sampling": {**sampling, "classes": ["CONST"]}}),
        "classes at odds": ({}, {"model_sampling": {**sampling, "classes": ["EPS", "V_PREDICTION", "EPS"]}}),
        "method": ({}, {"model_sampling": {**sampling, "values": {"timestep": 1}}}),
        "dunder": ({}, {"model_sampling": {**sampling, "values": {"__class__": 1}}}),
        "object": ({}, {"noise": {"__comfyui__": "os.system", "fields": {}}}),
        "the model itself": ({}, {"positive": [[torch.zeros(1, 6, 7), {"pooled_output": torch.zeros(1, 64)}]]}),
    }
    said = {}
    for name, (fields, parts) in wrong.items():
        try:
            job, arrived = over_the_wire(job_of(MMDIT, settings(fields)), {**good, **parts})
            BACKEND.sample(job, arrived, lambda *_: None)
            said[name] = "nothing"
        except BackendError as error:
            said[name] = f"{type(error).__name__}: {error}"
    return said


def containers() -> dict[str, Any]:
    """Send a CLIP vision model's output in conditioning over the wire, and compare."""
    output = comfy.clip_vision.Output()
    output.image_embeds, output.image_sizes = noise((1, 8), 80), [(2, 3)]
    this = case(MMDIT)
    positive = [condition(MMDIT, 1, unclip_conditioning=[{"clip_vision_output": output, "strength": 1.0}])]
    tree = job_tree(SIDES.remote(MMDIT), positive, this.negative, this.latent)
    inputs = comfyui_sampling.Inputs.of(over_the_wire(job_of(MMDIT, settings({})), tree)[1])
    arrived = inputs.positive[0][1]["unclip_conditioning"][0]["clip_vision_output"]
    return {
        "kind": type(arrived) is comfy.clip_vision.Output,
        "fields": sorted(vars(arrived)),
        "same": torch.equal(arrived.image_embeds, output.image_embeds) and arrived.image_sizes == [(2, 3)],
    }
