"""A whole sampling run of the comfyui backend, as KSampler does it, by ComfyUI's own code.

A job's tree has ``latent``, ``positive`` and ``negative``, and may have ``noise``, ``noise_mask``, ``batch_index``,
``sigmas``, ``model_sampling`` (see `wire.model_sampling`), ``control_nets`` (see `wire.control_data`) and
``model_options``, as far as they are data.
"""

from __future__ import annotations

import importlib
import io
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import comfy.sample
import comfy.samplers
import torch
from comfy.cli_args import LatentPreviewMethod
from comfy.cli_args import args as comfy_args
from PIL import Image, ImageOps

from ...backends.base import InterruptedCallError, ModelRunError, Report, on_device
from ...protocol.messages import MAX_STEPS, SampleJob
from ..wire import stock_guidance
from ..wire.control_data import RunNet
from ..wire.model_sampling import build_sampling
from ..wire.plain_values import from_plain, to_plain
from ..wire.stock_patches import unpack_options
from .control_chains import build_run_nets
from .modules.diffusion_model import loading_nets
from .modules.runnable_module import LoadModule

_CPU = torch.device("cpu")
_MAX_PREVIEW_PIXELS = 512
# ComfyUI's own (server.py, send_image).
_JPEG_QUALITY = 95
# Noise is made for every index up to the largest.
_MAX_BATCH_INDEX = 65_536
# ComfyUI keeps functions and objects under these keys, and nothing from the wire may be one.
_CODE_IN_OPTIONS = frozenset({"wrappers", "callbacks"})
_CODE_IN_CONDITIONING = frozenset({"hooks", "gligen", "additional_models", "model_conds"})


@dataclass(frozen=True)
class Inputs:
    """A job's tree, checked.

    Attributes:
        latent, noise: floating point, `[B, C, …]`, or ComfyUI's NestedTensor of several.
        positive, negative: ComfyUI's conditioning, pairs of a tensor and options.
        noise_mask: `[B, …, H, W]`, or a NestedTensor of several.
        batch_index: the places in a larger batch whose noise is drawn.
        sigmas: `[steps + 1]`.
    """

    latent: Any
    positive: list[Any]
    negative: list[Any]
    noise: Any = None
    noise_mask: Any = None
    batch_index: list[int] | None = None
    sigmas: torch.Tensor | None = None
    model_sampling: torch.nn.Module | None = None
    model_options: Mapping[str, Any] | None = None
    control_nets: list[RunNet] = field(default_factory=list)

    @classmethod
    def of(cls, tensors: Mapping[str, Any]) -> Inputs:
        """Check what came from a client.

        Raises:
            ModelRunError: it is not of this form; names the part that is not.
        """
        parts = {name: from_plain(part) for name, part in on_device(dict(tensors), _CPU).items()}
        if unknown := sorted(set(parts) - set(_CHECKS)):
            raise ModelRunError(f"This worker knows no {unknown[0]!r:.80} of a run: update its comfy-gpu-offload.")
        for name, check in _CHECKS.items():
            if (name in _NEEDED or name in parts) and not check(parts.get(name)):
                raise ModelRunError(
                    f"The {name} of the run is missing or malformed: use the same release on both sides."
                )
        if "model_sampling" in parts:
            parts["model_sampling"] = build_sampling(parts["model_sampling"])
        if "transformer_options" in parts.get("model_options", {}):
            inner = unpack_options(parts["model_options"]["transformer_options"])
            parts["model_options"] = {**parts["model_options"], "transformer_options": inner}
        parts["control_nets"] = RunNet.table(parts.get("control_nets", []))
        return cls(**parts)

    def with_control_nets(self, load: LoadModule) -> Inputs:
        """Return the same with ComfyUI's ControlNets in the conditioning, made of `control_nets`.

        Raises:
            ModelRunError: the conditioning names one that is not there.
            BackendError: as `load`.
        """
        nets = build_run_nets(self.control_nets, loading_nets(load))
        positive, negative = (_controlled(side, nets) for side in (self.positive, self.negative))
        return replace(self, positive=positive, negative=negative)


def _controlled(conditioning: list[Any], nets: Sequence[Any]) -> list[Any]:
    if any(options.get("control", -1) >= len(nets) for _, options in conditioning):
        raise ModelRunError(
            "The run's conditioning names a ControlNet that is not there: use the same release on both sides."
        )
    return [
        [tensor, {**options, "control": nets[options["control"]]} if "control" in options else options]
        for tensor, options in conditioning
    ]


def run(patcher: Any, job: SampleJob, inputs: Inputs, report: Report, interrupted: threading.Event) -> Any:
    """Sample a clone of `patcher`, and return the final latent on the CPU, as a tree.

    Raises:
        InterruptedCallError: `interrupted` was set.
    """
    clone = patcher.clone()
    if inputs.model_sampling is not None:
        clone.add_object_patch("model_sampling", inputs.model_sampling)
    if inputs.model_options is not None:
        sampling = clone.get_model_object("model_sampling")
        _merge_options(clone, stock_guidance.rebuild_guidance(inputs.model_options, sampling))
    picture = _pictures(clone, job.preview)

    def stepped(step: int, x0: Any, _: Any, steps: int) -> None:
        if interrupted.is_set():
            raise InterruptedCallError("The run was cancelled.")
        report(step + 1, steps, lambda: picture(x0))

    try:
        samples = _sample(clone, job, inputs, stepped)
    finally:
        # All clones share one model, and this one's patches are on it.
        clone.unpatch_model(None, unpatch_weights=False)
    return on_device(to_plain(samples), _CPU)


def check_names(job: SampleJob) -> None:
    """Refuse names that ComfyUI does not know: it would take its first sampler or scheduler instead.

    Raises:
        ModelRunError: this ComfyUI has no such sampler, scheduler or preview method.
    """
    choices = {
        "sampler": (job.sampler, comfy.samplers.KSampler.SAMPLERS),
        "scheduler": (job.scheduler, comfy.samplers.KSampler.SCHEDULERS),
        "preview method": (job.preview, [method.value for method in LatentPreviewMethod]),
    }
    for kind, (name, known) in choices.items():
        if name not in known:
            raise ModelRunError(f"This worker's ComfyUI has no {kind} {name!r}: choose one of {', '.join(known)}.")


def _sample(patcher: Any, job: SampleJob, inputs: Inputs, stepped: Callable[..., None]) -> Any:
    """Sample as `nodes.common_ksampler` does, step for step."""
    latent = comfy.sample.fix_empty_latent_channels(patcher, inputs.latent)
    return comfy.sample.sample(
        patcher,
        _noise(latent, job, inputs),
        job.steps,
        job.cfg,
        job.sampler,
        job.scheduler,
        inputs.positive,
        inputs.negative,
        latent,
        denoise=job.denoise,
        disable_noise=job.disable_noise,
        start_step=job.start_step,
        last_step=job.last_step,
        force_full_denoise=job.force_full_denoise,
        noise_mask=inputs.noise_mask,
        # ComfyUI writes into them, and what came over the wire may be kept for other runs.
        sigmas=None if inputs.sigmas is None else inputs.sigmas.clone(),
        callback=stepped,
        disable_pbar=True,
        seed=job.seed,
    )


def _noise(latent: Any, job: SampleJob, inputs: Inputs) -> Any:
    if inputs.noise is not None:
        return inputs.noise
    if not job.disable_noise:
        return comfy.sample.prepare_noise(latent, job.seed, inputs.batch_index)
    if hasattr(comfy.sample, "prepare_empty_noise"):
        return comfy.sample.prepare_empty_noise(latent)
    # As 0.3.64's `common_ksampler` does: not in the latent's order in memory.
    return torch.zeros(latent.size(), dtype=latent.dtype, device=_CPU)


def _merge_options(patcher: Any, options: Mapping[str, Any]) -> None:
    own = patcher.model_options
    inner = {**own.get("transformer_options", {}), **options.get("transformer_options", {})}
    patcher.model_options = {**own, **options, "transformer_options": inner}


def _pictures(patcher: Any, method: str) -> Callable[[Any], bytes | None]:
    """Return what makes a JPEG of a latent, with the previewer that ComfyUI has for this model and method."""
    with _preview_method(method):
        preview = importlib.import_module("latent_preview")
        previewer = preview.get_previewer(patcher.load_device, patcher.model.latent_format)

    def picture(x0: Any) -> bytes | None:
        if previewer is None:
            return None
        latent = x0 if isinstance(x0, torch.Tensor) else x0.tensors[0]
        return _jpeg(previewer.decode_latent_to_preview(latent))

    return picture


@contextmanager
def _preview_method(method: str) -> Iterator[None]:
    """Set the preview method in ComfyUI's command-line arguments, where its previewers read it."""
    before = comfy_args.preview_method
    comfy_args.preview_method = LatentPreviewMethod(method)
    try:
        yield
    finally:
        comfy_args.preview_method = before


def _jpeg(image: Image.Image) -> bytes:
    if max(image.size) > _MAX_PREVIEW_PIXELS:
        image = ImageOps.contain(image, (_MAX_PREVIEW_PIXELS, _MAX_PREVIEW_PIXELS), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()


def _is_latent(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return value.dim() >= 2 and value.is_floating_point()
    tensors = getattr(value, "tensors", None)
    return isinstance(tensors, list) and len(tensors) > 0 and all(map(_is_latent, tensors))


def _is_mask(value: Any) -> bool:
    tensors = getattr(value, "tensors", [value])
    return bool(tensors) and all(isinstance(each, torch.Tensor) and each.dim() >= 2 for each in tensors)


def _is_conditioning(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_condition, value))


def _is_condition(value: Any) -> bool:
    if not isinstance(value, list) or len(value) != 2:
        return False
    tensor, options = value
    named = isinstance(options, dict) and all(isinstance(key, str) for key in options)
    if named and "control" in options and (type(options["control"]) is not int or options["control"] < 0):
        return False
    return named and _CODE_IN_CONDITIONING.isdisjoint(options) and isinstance(tensor, torch.Tensor | None)


def _is_batch_index(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) > 0
        and all(type(index) is int and 0 <= index < _MAX_BATCH_INDEX for index in value)
    )


def _is_sigmas(value: Any) -> bool:
    if not isinstance(value, torch.Tensor) or value.dim() != 1 or not value.is_floating_point():
        return False
    return value.numel() <= MAX_STEPS + 1


def _is_options(value: Any) -> bool:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        return False
    inner = value.get("transformer_options", {})
    hooks = set(filter(_is_hook, value)) - stock_guidance.ONE - stock_guidance.SEVERAL
    return isinstance(inner, dict) and _CODE_IN_OPTIONS.isdisjoint(inner) and not hooks


def _is_hook(name: str) -> bool:
    """Return whether ComfyUI calls what it finds under that name."""
    return name.endswith(("_function", "_wrapper", "_handler", "_hooks", "_clones", "_pool"))


_NEEDED = frozenset({"latent", "positive", "negative"})
_CHECKS: dict[str, Callable[[Any], bool]] = {
    "latent": _is_latent,
    "positive": _is_conditioning,
    "negative": _is_conditioning,
    "noise": _is_latent,
    "noise_mask": _is_mask,
    "batch_index": _is_batch_index,
    "sigmas": _is_sigmas,
    "model_sampling": lambda value: isinstance(value, dict),
    "model_options": _is_options,
    "control_nets": lambda value: isinstance(value, list),
}
