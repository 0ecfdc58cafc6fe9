"""The seconds, bytes and dollars of a picture, each way to compute it, from a link's and a GPU's figures alone.

    each step     calls x (compute + coding + exchange of a call)
    whole loop    calls x compute + exchange of the job
    workflow      calls x compute + exchange of a workflow and the finished picture
    own           calls x compute of this machine

The first two are `client.offload_estimate.OffloadEstimate`, by which the node's `auto` decides. Encoding of prompts
and the VAE take about the same each way, and are left out. A first picture begins with the connection and, unless
the worker encodes them, the prompts; and at a worker that starts for it, with the models' loading.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ..client.offload_estimate import OffloadEstimate, RunShape, Stored, calls_of, draws_noise_each_step
from .gpus import Device
from .link import Link
from .models import ImageModel

# Bits that are stored for an element of two bytes, as means of a run of 20 calls: docs/benchmarks.md, "Prediction"
# (bfloat16). In float16, whose mantissa has three bits more: coded 13.6 and predicted replies 9.5, measured with a
# small UNet; of an ancestral sampler's replies 11.2, by the same difference.
_UP_BITS = {True: {False: 1.4, True: 13.6}, False: {False: 1.3, True: 10.5}}
_DOWN_BITS = {True: {False: 9.5, True: 11.2}, False: {False: 5.2, True: 6.9}}
# Of a float32 latent that is coded (1.20 times smaller), of prompts, whose padding is counted as if it were text.
_JOB_SHARE, _PROMPT_SHARE = 0.83, 0.65
# Encoding and decoding on both sides for a byte, uncompressed, of a call and its reply: 13 ms for Flux's 1.05 MB,
# on two shared CPU cores (docs/benchmarks.md, "What a step moves and costs").
_CODING_S = 12.5e-9
# TCP, TLS, the upgrade to a WebSocket, and the hello.
_ROUND_TRIPS_TO_CONNECT = 4
_WORKFLOW_BYTES = 10_000
# A worker from nothing: its container, then its models from a disk of 1 GB/s. Estimated.
_CONTAINER_S, _DISK_GB_S = 15.0, 1.0


class Way(StrEnum):
    """The ways to compute a picture."""

    EACH_STEP = "a call each step"
    WHOLE_LOOP = "whole loop as one job"
    WORKFLOW = "workflow up, picture down"
    OWN = "this machine alone"


@dataclass(frozen=True)
class Plan:
    """Pictures to calculate.

    Attributes:
        own: this machine's GPU or CPU; None leaves it out.
        dollars_an_hour: of the worker.
        idle_s: seconds for which a worker is still paid after the last picture.
        cold: whether the worker starts for the first picture.
        is_empty: whether runs begin with an empty latent, not with a picture's (img2img).
        remote_prompts: whether the worker encodes the prompts too, so that only their text is sent.
        compute_s: seconds of a call at the worker, where they are known; else the GPU's estimate.
    """

    model: ImageModel
    gpu: Device
    link: Link
    sampler: str
    steps: int
    dollars_an_hour: float
    own: Device | None = None
    idle_s: float = 60.0
    cold: bool = True
    is_empty: bool = True
    remote_prompts: bool = False
    compute_s: float | None = None

    @property
    def call_s(self) -> float:
        """Return the seconds of a model call at the worker."""
        return self.gpu.call_s(self.model) if self.compute_s is None else self.compute_s

    @property
    def cold_start_s(self) -> float:
        """Return the seconds until a worker that has to start has its models in memory."""
        return _CONTAINER_S + self.model.files_gb / _DISK_GB_S if self.cold else 0.0


@dataclass(frozen=True)
class PictureCost:
    """The figures of one way.

    Attributes:
        first_s, next_s: seconds of a first picture, without a worker's cold start, and of one with the same prompt.
        up, down: bytes of a next picture.
        first_dollars: of a first picture with cold start and idle tail.
        next_dollars: of each next one, if it follows at once.
    """

    way: Way
    first_s: float
    next_s: float
    up: int
    down: int
    first_dollars: float
    next_dollars: float


def run_shape(plan: Plan) -> RunShape:
    """Return the shape of the run, with the bytes that prediction and coding leave."""
    model, has_noise = plan.model, draws_noise_each_step(plan.sampler)
    stored = Stored(
        _JOB_SHARE,
        # The rows of a call hold the same latent, which is sent once.
        _UP_BITS[model.float16][has_noise] / 16 / model.rows,
        _DOWN_BITS[model.float16][has_noise] / 16,
    )
    return RunShape.of(
        calls_of(plan.sampler, plan.steps),
        model.elements,
        model.call_bytes,
        stored,
        is_empty=plan.is_empty,
        coding_s=2 * model.call_bytes * _CODING_S,
    )


def costs(plan: Plan) -> list[PictureCost]:
    """Return the figures of each way."""
    shape, link, model = run_shape(plan), plan.link, plan.model
    call_s, job_s = link.exchange_s(shape.call_up, shape.call_down), link.exchange_s(shape.job_up, shape.job_down)
    estimate = OffloadEstimate.of(shape, plan.call_s, call_s, job_s)
    prompts = _WORKFLOW_BYTES if plan.remote_prompts else round(model.conditioning * _PROMPT_SHARE)
    prompts_s = link.exchange_s(prompts, 0) - link.round_trip_s
    workflow_up = _WORKFLOW_BYTES + (0 if plan.is_empty else model.picture)
    workflow_s = shape.calls * plan.call_s + link.exchange_s(workflow_up, model.picture)
    calls_up, calls_down = shape.calls * shape.call_up, shape.calls * shape.call_down
    each_step = _remote(plan, Way.EACH_STEP, estimate.each_step_s, prompts_s, (calls_up, calls_down))
    whole_loop = _remote(plan, Way.WHOLE_LOOP, estimate.whole_loop_s, prompts_s, (shape.job_up, shape.job_down))
    workflow = _remote(plan, Way.WORKFLOW, workflow_s, 0.0, (workflow_up, model.picture))
    found = [each_step, whole_loop, workflow]
    if plan.own is not None:
        own_s = shape.calls * plan.own.call_s(model)
        found.append(PictureCost(Way.OWN, own_s, own_s, 0, 0, 0.0, 0.0))
    return found


def _remote(plan: Plan, way: Way, next_s: float, prompts_s: float, sent: tuple[int, int]) -> PictureCost:
    """Return the figures of a way that a worker takes part in; `sent` are bytes up and down."""
    first_s = next_s + prompts_s + _ROUND_TRIPS_TO_CONNECT * plan.link.round_trip_s
    a_second = plan.dollars_an_hour / 3600
    first_dollars = (plan.cold_start_s + first_s + plan.idle_s) * a_second
    return PictureCost(way, first_s, next_s, *sent, first_dollars, next_s * a_second)
