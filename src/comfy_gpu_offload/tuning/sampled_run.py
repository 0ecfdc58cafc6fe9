"""A sampling run without a model's weights: a mixture of Gaussians whose velocity has a formula.

What a codec and a prediction make of latents depends on how smoothly these change from step to step. A formula is
smoother than a network, whose rounding and detail are stood in for by noise of half a percent. With it, bytes of a
run of 20 steps are within a tenth of those of a trained model's in bfloat16, and within a quarter in float16.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from time import perf_counter

import torch

from ..backends.base import Backend, BackendInfo, Computed, Described, Listing, ModuleCall
from ..protocol.messages import ModelDescription, ModelEntry, ModelRef

NAME = "sampled-mixture"
"""The model's name."""

_FINGERPRINT = "00" * 32
_TIMESTEPS, _SHIFT = 1000, 3.0
# Of the data that the mixture describes, an element's variance about either mean; and of its velocity, relative.
_VARIANCE, _NOISE = 0.25, 0.005

Velocity = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""A model's call: a latent ``[B, …]`` as it takes one and a timestep ``[B]``; gives the velocity ``[B, …]``."""


def run(
    call: Velocity, shape: tuple[int, ...], dtype: torch.dtype, *, steps: int, seed: int, has_noise: bool = False
) -> Iterator[torch.Tensor]:
    """Yield the latent ``[1, …]``, float32, after each of Euler's steps from noise.

    Args:
        call: predicts in `dtype`.
        shape: of what the model takes; the rows of its batch are the same latent.
        dtype: of what the model takes.
        steps: the number of calls.
        seed: of the noise.
        has_noise: whether each step but the last adds noise, as an ancestral sampler does.
    """
    generator = torch.Generator().manual_seed(seed)
    latent = torch.randn((1, *shape[1:]), generator=generator)
    levels = torch.linspace(1, 0, steps + 1)
    sigmas = (_SHIFT * levels / (1 + (_SHIFT - 1) * levels)).tolist()
    for sigma, following in pairwise(sigmas):
        seen = latent.expand(shape).to(dtype).contiguous()
        velocity = call(seen, torch.full(shape[:1], sigma * _TIMESTEPS))[:1].float()
        down = following**2 / sigma if has_noise else following
        latent = latent + (down - sigma) * velocity
        if down < following:
            kept = (1 - following) / (1 - down)
            added = math.sqrt(following**2 - (down * kept) ** 2)
            latent = kept * latent + added * torch.randn(latent.shape, generator=generator)
        yield latent


class SampledMixture(Backend):
    """A backend with that one model, which computes on the CPU."""

    def info(self) -> BackendInfo:
        """See `Backend`."""
        return BackendInfo(NAME, "CPU")

    def listing(self) -> Listing:
        """See `Backend`."""
        return Listing((ModelEntry(name=NAME, folder=NAME, size_bytes=0),))

    def describe(self, ref: ModelRef) -> Described:
        """See `Backend`."""
        return Described(ModelDescription(ref=ref, fingerprint=_FINGERPRINT, compute_dtype="float32"), None)

    def forward(self, call: ModuleCall) -> Computed:
        """See `Backend`. The call's `args` are a latent and a timestep."""
        started = perf_counter()
        latent, timestep = call.args
        result = _velocity(latent, float(timestep[0]) / _TIMESTEPS)
        return Computed(result, 0.0, perf_counter() - started)


def _velocity(latent: torch.Tensor, sigma: float) -> torch.Tensor:
    """Return the expected `noise - data` of ``latent = (1 - sigma) data + sigma noise``, row by row.

    Each element of data is from one of two Gaussians, whose means are the row's own picture and its negative.
    """
    pictures = torch.Generator().manual_seed(1)
    rounding = torch.Generator().manual_seed(int(sigma * 1e6))
    mean = torch.randn(latent.shape, generator=pictures)
    seen, scale = latent.float(), 1 - sigma
    variance = scale**2 * _VARIANCE + sigma**2
    # The share of the first one, from the densities of `seen` under both.
    first = torch.sigmoid(2 * scale * mean * seen / variance)
    centre = (2 * first - 1) * mean
    data = centre + scale * _VARIANCE / variance * (seen - scale * centre)
    velocity = (seen - data) / sigma
    return (velocity * (1 + _NOISE * torch.randn(velocity.shape, generator=rounding))).to(latent.dtype)
