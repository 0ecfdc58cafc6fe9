"""A whole sampling run of the diffusers backend: a plain euler loop, for models with the call of the bundled one.

A job's tree: ``latent`` `[B, C, H, W]`, of which the shape counts; ``positive`` and ``negative`` with ``context``
`[B, T, D]` and ``pooled`` `[B, P]` each; ``shift`` of the schedule, 3 if it is not there.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

import torch

from ...digits import latent as pictures
from ...digits import sampling
from ...protocol.messages import SampleJob
from ..base import InterruptedCallError, ModelRunError, Report, on_device

_SAMPLER, _SCHEDULER = "euler", "simple"


def run(
    module: torch.nn.Module,
    job: SampleJob,
    tensors: Mapping[str, Any],
    report: Report,
    *,
    dtype: torch.dtype,
    device: torch.device,
    interrupted: Callable[[], bool],
) -> torch.Tensor:
    """Run the loop, and return the final latents `[B, C, H, W]`, float32, on the CPU.

    Raises:
        ModelRunError: a sampler, a setting or a tensor that this loop does not know.
        InterruptedCallError: `interrupted` said so.
    """
    _check(job)
    latents, context, pooled = (part.to(device) for part in _inputs(tensors))
    generator = torch.Generator("cpu").manual_seed(job.seed % 2**63)
    noise = torch.randn(latents.shape, generator=generator).to(device)

    def stepped(step: int, of: int, now: torch.Tensor) -> None:
        if interrupted():
            raise InterruptedCallError("The run was cancelled.")
        report(step, of, lambda: None if job.preview == "none" else _preview(now))

    sigmas = sampling.schedule(job.steps, _shift(tensors))
    start, wanted, pool = on_device((noise, context.to(dtype), pooled.to(dtype)), device)
    return sampling.euler(
        module, start, context=wanted, pooled=pool, sigmas=sigmas, guidance=job.cfg, callback=stepped
    ).cpu()


def _check(job: SampleJob) -> None:
    if (job.sampler, job.scheduler) != (_SAMPLER, _SCHEDULER):
        raise ModelRunError(
            f"The diffusers backend runs whole loops with {_SAMPLER} and {_SCHEDULER}, not {job.sampler!r} and "
            f"{job.scheduler!r}: run each step instead, or use a comfyui worker."
        )
    whole = job.denoise == 1 and job.start_step is None and job.last_step is None and not job.disable_noise
    if not whole or job.steps > sampling.TIMESTEPS:
        raise ModelRunError(
            f"The diffusers backend runs whole loops from noise to picture, of up to {sampling.TIMESTEPS} steps."
        )


def _inputs(tensors: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    latents = tensors.get("latent")
    sides = [tensors.get("positive"), tensors.get("negative")]
    parts = [side.get(name) if isinstance(side, dict) else None for name in ("context", "pooled") for side in sides]
    if not isinstance(latents, torch.Tensor) or latents.dim() != 4:
        raise ModelRunError("A whole loop needs a latent [B, C, H, W].")
    checked = [part for part in parts if isinstance(part, torch.Tensor) and len(part) == len(latents)]
    if len(checked) != len(parts):
        raise ModelRunError(
            "A whole loop needs positive and negative, each with context and pooled for every latent of the batch."
        )
    try:
        return latents, torch.cat(checked[:2]), torch.cat(checked[2:])
    except RuntimeError as error:
        raise ModelRunError(
            "The conditioning's positive and negative sides differ in shape: encode both with the same model."
        ) from error


def _shift(tensors: Mapping[str, Any]) -> float:
    shift = tensors.get("shift", 3.0)
    if not isinstance(shift, int | float) or not 0 < shift < 1000:
        raise ModelRunError("The schedule's shift must be a number above 0 and below 1000.")
    return float(shift)


def _preview(latents: torch.Tensor) -> bytes | None:
    if latents.shape[1:] != (pictures.CHANNELS, pictures.LATENT_SIZE, pictures.LATENT_SIZE):
        return None  # only the bundled model's latents can be decoded here
    try:
        sheet = pictures.contact_sheet(pictures.decode(latents.cpu()))
    except ImportError:
        return None  # Pillow comes with the demo
    buffer = io.BytesIO()
    sheet.convert("RGB").save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
