"""The expected time of a step with each compression setting, put together from measured pieces.

The link is measured to the worker that settings name; what a call moves and what coding costs, both sides, in a run
of a trained model (see mosaic.py) through a worker on this machine. The worker asked is taken to code as fast.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter, sleep

import torch

import arguments
from comfy_gpu_offload.client.connect import connect_from
from comfy_gpu_offload.client.encoding.link_speed import LinkSpeed, measure_link
from comfy_gpu_offload.client.encoding.step_time import EncodingKind, StepCost
from comfy_gpu_offload.client.offload_estimate import RunShape, Stored
from comfy_gpu_offload.client.session import Session, SessionOptions
from comfy_gpu_offload.config.endpoint import Direct, configured
from comfy_gpu_offload.config.settings import Settings
from comfy_gpu_offload.io import codecs
from comfy_gpu_offload.transport.configured import transport_for
from comfy_gpu_offload.transport.direct_transport import DirectTransport
from each_step_runs import Followed, follow, session_over
from mosaic import mosaic_worker

SETTLING = 4
"""Calls until predictions have a history, and a connection's window has grown or has shrunk as far as it will."""

_COUNTED = 5
# Measurements of the link, whose spread says how far a figure can be believed.
_ROUNDS = 3
# A choice that gains less than this over the default is not worth a setting.
_WORTHWHILE = 0.02
# Long enough for an idle connection to slow down.
_PAUSE_S = 0.6


@dataclass(frozen=True)
class Shape:
    """The shape of a run. A batch of 2 is a positive and a negative half."""

    latent: tuple[int, ...]
    dtype: torch.dtype
    compute_s: float
    steps: int
    seed: int
    begins_empty: bool = True

    @property
    def call_bytes(self) -> int:
        """Return the bytes of a call's latent, uncompressed."""
        return torch.Size(self.latent).numel() * self.dtype.itemsize

    def run(self, session: Session) -> RunShape:
        """Return the shape of the run by which the node's `auto` decides, for this session's encoding."""
        elements = torch.Size(self.latent[1:]).numel()
        stored = Stored(session.stored_share, *session.call_shares)
        coding_s = session.coding_s(self.call_bytes, self.call_bytes)
        return RunShape.of(
            self.steps, elements, self.call_bytes, stored, is_empty=self.begins_empty, coding_s=coding_s
        )

    def begun(self) -> torch.Tensor:
        """Return the latent that a run begins with: zeros of an empty one, or one that a picture was encoded to."""
        shape = (1, *self.latent[1:])
        return torch.zeros(shape) if self.begins_empty else torch.randn(shape)


@dataclass(frozen=True)
class Prediction:
    """One compression setting and its figures: seconds and bytes.

    Attributes:
        spread_s: by how much `step_s` differs between measurements, of link and coding together.
        whole_s: of a step of a run as one job.
    """

    choice: str
    way: str
    warm: bool
    bytes_up: float
    bytes_down: float
    coding_s: float
    network_s: float
    step_s: float
    spread_s: float
    whole_s: float


_LOSSLESS = [name for name in codecs.names() if codecs.named(name).lossless]

WAYS = {
    "coded": SessionOptions(codec=codecs.AUTO, predict=False),
    "predicted": SessionOptions(codec=codecs.AUTO),
    **{name: SessionOptions(codec=codecs.named(name)) for name in _LOSSLESS},
}
"""The ways to encode tensors; a codec's name stands for that codec with prediction, which `raw` has not."""

OF_CHOICE: dict[str, tuple[str, ...]] = {
    "auto": ("raw", "coded", "predicted"),
    **{"none" if name == "raw" else name: (name,) for name in _LOSSLESS},
}
"""The lossless values of the setting -> the ways that a session may go with it, of which it takes the fastest."""


@dataclass(frozen=True)
class Choice:
    """A setting of compression, as it is for one worker.

    Attributes:
        ways: keys of what `costs` gives: the session takes the fastest of them.
        warm: whether both sides keep the connection warm while the worker computes.
        opened: makes a session with it.
    """

    name: str
    ways: tuple[str, ...]
    warm: bool
    opened: Callable[[], Session]


def choices_of(settings: Settings) -> list[Choice]:
    """Return all choices for the worker that these settings name.

    Raises:
        OffloadError: the worker cannot be asked.
    """
    target = configured(settings)
    direct = isinstance(target, Direct)
    warm = direct and _warms(settings)
    made = []
    for name, ways in OF_CHOICE.items():
        opened = partial(connect_from, settings.model_copy(update={"compression": name}))
        # Without a worker of its own a session does not choose: see `client.connect`.
        made.append(Choice(name, ways if direct else ways[-1:], warm, opened))
    return made


def choices_over(port: int) -> list[Choice]:
    """All choices for a worker of this machine's that is reached over a link, and taken for one elsewhere."""
    options = {name: WAYS[ways[-1]] for name, ways in OF_CHOICE.items()}
    options["auto"] = replace(options["auto"], begin_with=EncodingKind.PREDICTED)
    return [
        Choice(name, ways, True, partial(session_over, port, options[name])) for name, ways in OF_CHOICE.items()
    ]


def _warms(settings: Settings) -> bool:
    """Return whether the worker is reached over a WebSocket, which is kept warm while it computes."""
    transport = transport_for(settings)
    with Session(transport):
        return isinstance(transport, DirectTransport) and transport.refusal is None


def costs(shape: Shape) -> dict[str, StepCost]:
    """Measure the bytes of a call each way and the cost of coding, by runs through a worker on this machine."""
    found: dict[str, StepCost] = {}
    with mosaic_worker(0.0) as url:
        port = int(url.rsplit(":", 1)[1])
        for name, options in arguments.progress(WAYS.items(), desc="coding on this machine", unit="run"):
            with session_over(port, options) as session:
                found[name] = _cost(session, shape)
    return found


def predict(choices: Iterable[Choice], taken: Mapping[str, StepCost], shape: Shape) -> list[Prediction]:
    """Predict the step of each setting, over the link that the sessions use.

    Raises:
        OffloadError: the worker cannot be asked.
    """
    found: list[Prediction] = []
    links: list[LinkSpeed] = []
    job_s = None
    for choice in arguments.progress(list(choices), desc="the link", unit="choice"):
        with choice.opened() as session:
            if job_s is None:
                job_s = _job_s(session, shape.run(session))
            if not links and choice.warm:
                links = [measure_link(session, shape.call_bytes) for _ in range(_ROUNDS)]
            times = {way: _network_times(session, taken[way], links, shape.compute_s) for way in choice.ways}
        network = {way: statistics.median(each) for way, each in times.items()}
        way = min(choice.ways, key=lambda way: network[way] + taken[way].coding_s)
        cost = taken[way]
        found.append(
            Prediction(
                choice=choice.name,
                way=way,
                warm=choice.warm,
                bytes_up=cost.up_bytes,
                bytes_down=cost.down_bytes,
                coding_s=cost.coding_s,
                network_s=network[way],
                step_s=shape.compute_s + network[way] + cost.coding_s,
                spread_s=max(times[way]) - min(times[way]),
                whole_s=_whole_s(shape, cost, job_s),
            )
        )
    return found


def predicted_whole_s(choice: Choice, cost: StepCost, shape: Shape) -> float:
    """Return the expected seconds of a step of a run as one job.

    Raises:
        OffloadError: the worker cannot be asked.
    """
    with choice.opened() as session:
        return _whole_s(shape, cost, _job_s(session, shape.run(session)))


def _whole_s(shape: Shape, cost: StepCost, job_s: float) -> float:
    return shape.compute_s + (cost.coding_s + job_s) / shape.steps


def _network_times(session: Session, cost: StepCost, links: list[LinkSpeed], pause_s: float) -> list[float]:
    """Return the seconds that a call's network took in each measurement."""
    if links:
        return [link.network_s(cost.up_bytes, cost.down_bytes) for link in links]
    return _after_pauses(session, cost, pause_s)


def advice(predictions: Sequence[Prediction]) -> Prediction:
    """Return the setting to choose: the default, `auto`, unless another one's gain is beyond what measuring tells.

    `auto` also adapts when the line changes, so a gain that may be noise is no reason to give it up.
    """
    best = min(predictions, key=lambda each: each.step_s)
    default = next((each for each in predictions if each.choice == "auto"), best)
    least_gain = max(_WORTHWHILE * default.step_s, best.spread_s + default.spread_s)
    return best if default.step_s - best.step_s > least_gain else default


def measured_step_s(choice: Choice, shape: Shape) -> float:
    """Seconds of a step, by a run through its worker."""
    with choice.opened() as session:
        return statistics.median(_run(session, shape).times[SETTLING:])


def measured_whole_s(choice: Choice, shape: Shape) -> float:
    """Seconds of a step of a run that is one job, by one."""
    with choice.opened() as session:
        model = session.model("echo")
        job = {"latent": shape.begun(), "positive": [], "negative": []}
        fields = {"sampler": "euler", "scheduler": "simple", "seed": 0, "steps": shape.steps, "cfg": 1.0}
        started = perf_counter()
        model.sample(fields, job)
        return (perf_counter() - started) / shape.steps


def _run(session: Session, shape: Shape) -> Followed:
    return follow(session, shape.latent, shape.dtype, {}, steps=SETTLING + _COUNTED, seed=shape.seed)


def _cost(session: Session, shape: Shape) -> StepCost:
    made = _run(session, shape)
    settled = made.timings[SETTLING:]
    return StepCost(
        statistics.median(call.bytes_up for call in settled),
        statistics.median(call.bytes_down for call in settled),
        # With what loopback takes, which is next to nothing.
        statistics.median(made.beyond_compute_s[SETTLING:]),
    )


def _job_s(session: Session, run: RunShape) -> float:
    """Return the seconds of a job and of its later result: both begin slowly, as in a run."""
    up_s = session.probe(run.job_up, 0)
    sleep(_PAUSE_S)
    return up_s + session.probe(0, run.job_down) - session.probe()


def _after_pauses(session: Session, cost: StepCost, pause_s: float) -> list[float]:
    """Return what as many bytes took, in seconds, after such a pause on a connection that is idle meanwhile."""
    times = []
    for _ in range(SETTLING + _COUNTED):
        times.append(session.probe(int(cost.up_bytes), int(cost.down_bytes)))
        sleep(pause_s)
    return times[SETTLING:]
