"""The bytes of a call and the seconds of coding, both sides, with each encoding: measured within this process."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import torch

from ..client.encoding.step_time import StepCost
from ..client.session import Session, SessionOptions
from ..io import codecs
from ..server.handler import Handler
from ..transport.loopback import LoopbackTransport
from .models import ImageModel
from .sampled_run import NAME, SampledMixture, run

SETTLING = 4
"""Calls until predictions have a history, and a connection's window has grown or has shrunk as far as it will."""

_COUNTED = 5
_MOST_STEPS = 20
# Of one encoding's run; a video's latent would take minutes in all.
_LONGEST_S = 4.0

LOSSLESS = [name for name in codecs.names() if codecs.named(name).lossless]
"""The names of the lossless codecs."""

WAYS = {
    "coded": SessionOptions(codec=codecs.AUTO, predict=False),
    "predicted": SessionOptions(codec=codecs.AUTO),
    **{name: SessionOptions(codec=codecs.named(name)) for name in LOSSLESS},
}
"""The ways to encode tensors; a codec's name stands for that codec with prediction, which `raw` has not."""


@dataclass(frozen=True)
class Shape:
    """The shape of a run.

    Attributes:
        latent: of what the model takes; a batch of 2 is a positive and a negative half.
        dtype: of what crosses.
        compute_s: seconds of a model call.
        steps: calls of the model.
        seed: of the run's noise.
        begins_empty: whether the run begins with an empty latent, not with a picture's (img2img).
        has_noise: whether the sampler adds noise in each step.
    """

    latent: tuple[int, ...]
    dtype: torch.dtype
    compute_s: float
    steps: int
    seed: int = 0
    begins_empty: bool = True
    has_noise: bool = False

    @classmethod
    def of(
        cls, model: ImageModel, compute_s: float, calls: int, *, begins_empty: bool = True, has_noise: bool = False
    ) -> Shape:
        """Return the shape of a run of that model with so many calls."""
        latent = (model.rows, *model.latent[1:])
        dtype = torch.float16 if model.float16 else torch.bfloat16
        return cls(latent, dtype, compute_s, calls, begins_empty=begins_empty, has_noise=has_noise)

    @property
    def elements(self) -> int:
        """Return the number of elements of the run's latent."""
        return math.prod(self.latent[1:])

    @property
    def call_bytes(self) -> int:
        """Return the bytes of a call's latent, uncompressed, all rows."""
        return self.latent[0] * self.elements * self.dtype.itemsize

    @property
    def measured_steps(self) -> int:
        """Return the steps of a run that stands for this one: as many, from 9 to 20."""
        return min(max(self.steps, SETTLING + _COUNTED), _MOST_STEPS)


@dataclass(frozen=True)
class EncodingCost(StepCost):
    """A step's cost with one encoding.

    Attributes:
        spread_s: by how much seconds of coding differ: the middle half of them.
    """

    spread_s: float = 0.0


def costs(shape: Shape, on_way: Callable[[str], object] = lambda _: None) -> dict[str, EncodingCost]:
    """Return the cost of a step with each of `WAYS`; `on_way` takes the name of each before it is measured."""
    found: dict[str, EncodingCost] = {}
    for name, options in WAYS.items():
        on_way(name)
        with Session(LoopbackTransport(Handler(SampledMixture())), options) as session:
            found[name] = _cost(session, shape)
    return found


def _cost(session: Session, shape: Shape) -> EncodingCost:
    model, coding = session.model(NAME), list[float]()

    def call(latent: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        started = perf_counter()
        value = model(latent, timestep)
        elapsed_s = perf_counter() - started
        timings = model.last_timings
        # Between both ends is a copy in memory, which takes next to nothing.
        coding.append(elapsed_s if timings is None else elapsed_s - timings.compute_s)
        return torch.as_tensor(value)

    deadline = perf_counter() + _LONGEST_S
    followed = run(
        call,
        shape.latent,
        shape.dtype,
        steps=shape.measured_steps,
        seed=shape.seed,
        has_noise=shape.has_noise,
    )
    for done, _ in enumerate(followed, 1):
        if done >= SETTLING + _COUNTED and perf_counter() > deadline:
            break
    calls, settled = model.timings_since(0)[SETTLING:], coding[SETTLING:]
    low, _, high = statistics.quantiles(settled, n=4)
    return EncodingCost(
        statistics.median(each.bytes_up for each in calls),
        statistics.median(each.bytes_down for each in calls),
        statistics.median(settled),
        high - low,
    )
