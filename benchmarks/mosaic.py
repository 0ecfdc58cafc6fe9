"""Sampling runs of any latent's shape by a trained model: a mosaic of the bundled digits model's latents.

Real models of these shapes need a GPU. Here the latent's memory is a row of tiles of 16x8x8 elements, each a
digit's, and the bundled network runs on all of them: so inputs and outputs are those of a deterministic sampler
(Euler's, the state in float32) that follows a trained flow, in the dtype that crosses, and a codec or a
prediction has to do with what it meets in use. With guidance the batch is doubled, as ComfyUI does. What such a
mosaic does not have is a picture's correlation across tiles, of which no lossless codec here makes use.

The network computes in bfloat16 where that is what crosses, else in float32 (in float16 a CPU is slow): the replies
of a float16 model then have the rounding of the result alone in them. The worker takes the compute that it is told,
of which the network's own time is part.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property
from itertools import pairwise
from time import perf_counter, sleep
from typing import Any

import torch

from comfy_gpu_offload.backends.base import Computed, Described, ModuleCall, PatchSet, Report
from comfy_gpu_offload.digits.conditioning import conditioning, unconditional
from comfy_gpu_offload.digits.latent import CHANNELS, LATENT_SIZE
from comfy_gpu_offload.digits.model import load
from comfy_gpu_offload.digits.sampling import TIMESTEPS, schedule
from comfy_gpu_offload.protocol.messages import ModelRef, SampleJob
from echo_worker import EchoBackend, worker_of

_TILE = (CHANNELS, LATENT_SIZE, LATENT_SIZE)
_TILE_ELEMENTS = math.prod(_TILE)
GUIDANCE = 4.0

Forward = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""A model's call: the latent as the model takes it, and the timestep `[batch]`; gives the velocity."""


def run(
    call: Forward, shape: tuple[int, ...], dtype: torch.dtype, *, steps: int, seed: int
) -> Iterator[torch.Tensor]:
    """Euler's steps from noise, the state in float32 after each. A batch of 2 is a wanted and an unwanted half.

    Args:
        call: predicts in `dtype`.
        shape: of what the model takes.
        dtype: of what the model takes.
        steps: model calls.
        seed: of the noise.
    """
    batch, one = shape[0], (1, *shape[1:])
    latent = torch.randn(one, generator=torch.Generator().manual_seed(seed))
    sigmas = schedule(steps).tolist()
    for sigma, following in pairwise(sigmas):
        seen = latent.expand(shape).to(dtype).contiguous()
        wanted, *unwanted = call(seen, torch.full((batch,), sigma * TIMESTEPS)).float().split(1)
        velocity = unwanted[0] + GUIDANCE * (wanted - unwanted[0]) if unwanted else wanted
        latent = latent + (following - sigma) * velocity
        yield latent


class MosaicBackend(EchoBackend):
    """A backend whose model predicts the velocity of each tile."""

    @cached_property
    def _networks(self) -> dict[torch.dtype, torch.nn.Module]:
        return {dtype: load(dtype) for dtype in (torch.bfloat16, torch.float32)}

    def describe(self, ref: ModelRef) -> Described:
        """Load the networks, so that no call waits for that."""
        _ = self._networks
        return super().describe(ref)

    def forward(self, call: ModuleCall) -> Computed:
        """See `Backend`. The call's `args` are a latent and a timestep."""
        started = perf_counter()
        latent, timestep = call.args
        value = torch.cat(
            [
                self._velocity(half, float(timestep[0]), wanted=index == 0)
                for index, half in enumerate(latent.split(1))
            ]
        )
        sleep(max(0.0, self._pace_s - (perf_counter() - started)))
        return Computed(value, 0.0, max(self._pace_s, perf_counter() - started))

    def sample(
        self, job: SampleJob, tensors: Mapping[str, Any], report: Report, *, patches: PatchSet | None = None
    ) -> Computed:
        """See `Backend`. The run ends in a latent that compresses as a sampled one does, whatever it began with."""
        taken = super().sample(job, tensors, report, patches=patches)
        shape = tensors["latent"].shape
        return replace(taken, result=torch.randn(shape, generator=torch.Generator().manual_seed(job.seed)))

    @torch.no_grad()
    def _velocity(self, latent: torch.Tensor, timestep: float, *, wanted: bool) -> torch.Tensor:
        dtype = latent.dtype if latent.dtype == torch.bfloat16 else torch.float32
        tiles = -(-latent.numel() // _TILE_ELEMENTS)
        flat = torch.zeros(tiles * _TILE_ELEMENTS, dtype=dtype)
        flat[: latent.numel()] = latent.reshape(-1)
        labels = [tile % 10 for tile in range(tiles)]
        context, pooled = conditioning(labels) if wanted else unconditional(tiles)
        (found,) = self._networks[dtype](
            hidden_states=flat.view(tiles, *_TILE),
            timestep=torch.full((tiles,), timestep),
            encoder_hidden_states=context.to(dtype),
            pooled_projections=pooled.to(dtype),
            return_dict=False,
        )
        return found.reshape(-1)[: latent.numel()].view(latent.shape).to(latent.dtype)


def mosaic_worker(pace_s: float) -> AbstractContextManager[str]:
    """Yield the address of a worker with this model, in a process of its own, that takes `pace_s` per call."""
    return worker_of(MosaicBackend, pace_s)
