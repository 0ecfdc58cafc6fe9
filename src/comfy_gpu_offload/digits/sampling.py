"""A plain rectified-flow sampler for models with the signature of `SD3Transformer2DModel`, local or remote.

The noise is that of ComfyUI's KSampler for the same seed and batch, and the sigmas are those of its `simple`
scheduler, so that a run here is the `euler` run there up to float32 rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol

import torch
from torch import Tensor

from .conditioning import conditioning, unconditional
from .latent import CHANNELS, LATENT_SIZE, process_out

TIMESTEPS: Final = 1000
"""Entries of ComfyUI's sigma table, and the timestep of sigma 1."""

Callback = Callable[[int, int, Tensor], None]
"""Called after each step with the steps done, the steps in all and the latents `[B, 16, 8, 8]`."""


class Model(Protocol):
    """Predicts the velocity `noise - latents` in the model's latent space."""

    def __call__(
        self,
        *,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        pooled_projections: Tensor,
        return_dict: bool,
    ) -> tuple[Tensor, ...]: ...


def schedule(steps: int, shift: float = 3.0) -> Tensor:
    """Return the sigmas `[steps + 1]`, float32, from 1 down to 0.

    The formulas are ComfyUI's: `time_snr_shift` of `ModelSamplingDiscreteFlow`, read by `simple_scheduler`.

    Raises:
        ValueError: steps is not in 1..1000, or shift is not positive.
    """
    if not 1 <= steps <= TIMESTEPS:
        raise ValueError(f"steps must be 1..{TIMESTEPS}, not {steps}")
    if not shift > 0:
        raise ValueError(f"shift must be positive, not {shift}")
    t = torch.arange(1, TIMESTEPS + 1) / TIMESTEPS
    table = shift * t / (1 + (shift - 1) * t)
    picked = [TIMESTEPS - 1 - int(step * TIMESTEPS / steps) for step in range(steps)]
    return torch.cat([table[picked], torch.zeros(1)])


def noise(labels: Sequence[int], seed: int) -> Tensor:
    """Draw standard normal noise `[B, 16, 8, 8]`, float32, on the CPU, one sample for each label.

    Sample i depends on the seed and on i alone: neither on the labels nor on how many follow.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn(len(labels), CHANNELS, LATENT_SIZE, LATENT_SIZE, generator=generator)


@torch.no_grad()
def sample(
    model: Model,
    labels: Sequence[int],
    *,
    steps: int = 20,
    guidance: float = 2.0,
    shift: float = 3.0,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    callback: Callback | None = None,
) -> Tensor:
    """Draw one digit for each label with Euler steps and classifier-free guidance.

    The state stays in float32; the model is called once a step, with the labelled half of the batch first
    and the dropped labels second. Equal predictions give equal bits.

    Args:
        model: predicts in `dtype` on `device`.
        labels: digits 0..9.
        steps: model calls.
        guidance: 1 follows the label, more exaggerates it.
        shift: how far the schedule leans to high sigmas.
        seed: of the noise.
        dtype: what latents and conditioning are cast to for the model; the timestep stays float32.
        device: where the state lives.
        callback: told of each step.

    Returns:
        latents `[B, 16, 8, 8]`, float32, out of the model's space: `latent.decode` makes pictures of them.

    Raises:
        ValueError: a label, steps or shift is out of range.
    """
    positive, negative = conditioning(labels), unconditional(len(labels))
    context, pooled = (torch.cat(halves).to(device, dtype) for halves in zip(positive, negative, strict=True))
    start = noise(labels, seed).to(device)
    sigmas = schedule(steps, shift)
    return euler(model, start, context=context, pooled=pooled, sigmas=sigmas, guidance=guidance, callback=callback)


@torch.no_grad()
def euler(
    model: Model,
    latents: Tensor,
    *,
    context: Tensor,
    pooled: Tensor,
    sigmas: Tensor,
    guidance: float,
    callback: Callback | None = None,
) -> Tensor:
    """Follow the model from `latents`, which is noise, down the sigmas.

    Args:
        latents: `[B, C, H, W]`, float32, at the first sigma.
        context, pooled: `[2B, …]` in the dtype that the model predicts in: the wanted half first.
        sigmas: `[steps + 1]`.

    Returns:
        latents like `latents`, out of the model's space.
    """
    levels, steps = sigmas.tolist(), len(sigmas) - 1
    for step in range(steps):
        timestep = torch.full((2 * len(latents),), levels[step] * TIMESTEPS, device=latents.device)
        prediction = model(
            hidden_states=torch.cat([latents, latents]).to(context.dtype),
            timestep=timestep,
            encoder_hidden_states=context,
            pooled_projections=pooled,
            return_dict=False,
        )[0]
        labelled, dropped = prediction.float().chunk(2)
        velocity = dropped + guidance * (labelled - dropped)
        latents = latents + (levels[step + 1] - levels[step]) * velocity
        if callback is not None:
            callback(step + 1, steps, process_out(latents))
    return process_out(latents)
