"""Runs of the digits model through a session: the bytes of each call, and every latent on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

import samplers
from comfy_gpu_offload.backends.diffusers.backend import DIGITS
from comfy_gpu_offload.client.session import Session, SessionOptions
from comfy_gpu_offload.config.address import Address
from comfy_gpu_offload.digits.conditioning import CLASSES, conditioning, unconditional
from comfy_gpu_offload.digits.sampling import TIMESTEPS, noise, schedule
from comfy_gpu_offload.io import codecs
from comfy_gpu_offload.transport.http_transport import HttpTransport

WAYS = {
    "raw": SessionOptions(),
    "coded": SessionOptions(codec=codecs.AUTO, predict=False),
    "predicted": SessionOptions(codec=codecs.AUTO),
}
"""The ways to encode tensors; `coded` is what is done where nothing can be predicted."""

BOUND = ("euler", "heun", "dpmpp_2m")
"""Deterministic samplers, whose latents can be predicted."""

Velocity = Callable[[Tensor, float], Tensor]


@dataclass(frozen=True)
class Task:
    """The sampling of `batch` digits at once; guidance doubles the batch."""

    batch: int
    steps: int
    guidance: float
    seed: int
    dtype: torch.dtype = torch.bfloat16


@dataclass(frozen=True)
class Run:
    """One sampler over one session.

    Attributes:
        latents: `[B, 16, 8, 8]`, float32: the sampler's state at each call, and the last one.
        up, down: bytes of each call's frames.
        resends: calls that were made again.
    """

    latents: list[Tensor]
    up: list[int]
    down: list[int]
    resends: int

    def bits_up(self) -> float:
        """Return the bits of whole frames sent per element of the latent, averaged over the calls."""
        return 8 * sum(self.up) / len(self.up) / self.latents[0].numel()

    def bits_down(self) -> float:
        """Return the bits of whole replies per element of their two predictions, averaged over the calls."""
        return 8 * sum(self.down) / len(self.down) / (2 * self.latents[0].numel())

    def equals(self, other: Run) -> bool:
        """Return whether every latent equals the other run's bit for bit."""
        pairs = zip(self.latents, other.latents, strict=True)
        return all(torch.equal(mine.view(torch.int32), its.view(torch.int32)) for mine, its in pairs)


def euler_ancestral(velocity: Velocity, x: Tensor, sigmas: list[float]) -> Tensor:
    """Sample as ComfyUI does for rectified flow, with eta 1: each step adds noise, which cannot be predicted."""
    generator = torch.Generator().manual_seed(1)
    for sigma, following in pairwise(sigmas):
        picture = velocity(x, sigma).mul(-sigma).add(x)
        if following == 0:
            return picture
        down = following**2 / sigma
        kept = (1 - following) / (1 - down)
        added = (following**2 - (down * kept) ** 2) ** 0.5
        x = kept * (down / sigma * x + (1 - down / sigma) * picture)
        x = x + added * torch.randn(x.shape, generator=generator)
    return x


SAMPLERS: dict[str, Any] = {**samplers.SAMPLERS, "euler_ancestral": euler_ancestral}


@torch.no_grad()
def run(url: str, way: str, sampler: str, task: Task) -> Run:
    """Sample through the worker at `url`, over a session of its own."""
    labels = [index % CLASSES for index in range(task.batch)]
    halves = zip(conditioning(labels), unconditional(task.batch), strict=True)
    context, pooled = (torch.cat(pair).to(task.dtype) for pair in halves)
    seen: list[Tensor] = []
    with Session(HttpTransport(Address.parse(url)), WAYS[way]) as session:
        model = session.model(DIGITS)

        def velocity(x: Tensor, sigma: float) -> Tensor:
            seen.append(x)
            (predicted,) = model(
                # Cast where ComfyUI casts: the state stays float32, and only the cast copy is sent.
                hidden_states=torch.cat([x, x]).to(task.dtype),
                timestep=torch.full((2 * len(x),), sigma * TIMESTEPS),
                # New tensors of the same content, as ComfyUI makes them for every step.
                encoder_hidden_states=context.clone(),
                pooled_projections=pooled.clone(),
                return_dict=False,
            )
            labelled, dropped = predicted.float().chunk(2)
            return dropped + task.guidance * (labelled - dropped)

        last = SAMPLERS[sampler](velocity, noise(labels, task.seed), schedule(task.steps).tolist())
        timings = list(model.timings)
    return Run(
        latents=[*seen, last],
        up=[call.bytes_up for call in timings],
        down=[call.bytes_down for call in timings],
        resends=sum(call.exchanges - 1 for call in timings),
    )
