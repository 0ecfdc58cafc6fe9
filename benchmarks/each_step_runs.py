"""Whole each-step runs over emulated links: every encoding, the naive stack, and the link's own limit."""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch

import arguments
import naive_stack
from carriers import websocket
from comfy_gpu_offload.client.encoding.step_time import EncodingKind
from comfy_gpu_offload.client.session import Session, SessionOptions
from comfy_gpu_offload.client.timings import CallTimings
from comfy_gpu_offload.io import codecs
from comfy_gpu_offload.tuning.link import Link
from emulated_link import Kind, emulated
from mosaic import mosaic_worker, run
from proxied import DIRECT, proxied

# Calls of the naive stack: each is like the first, since it keeps nothing.
_NAIVE_CALLS = 2
# Steps until predictions have a history and the connection's window has grown.
_SETTLING = 3


WAYS: dict[str, SessionOptions] = {
    **{name: SessionOptions(codec=codecs.named(name), predict=False) for name in codecs.names()},
    "planes, predicted": SessionOptions(codec=codecs.PLANES),
    "auto": SessionOptions(codec=codecs.AUTO, begin_with=EncodingKind.PREDICTED),
}
"""Each codec without prediction (which no lossy one has), and two ways with it; `auto` as over a network."""

PROXIED_WAYS = ("raw", "auto")


@dataclass(frozen=True)
class Model:
    """A forward call's shapes. `compute_s` is a rough figure for an RTX 4090, to be replaced by one's own."""

    title: str
    dtype: torch.dtype
    latent: tuple[int, ...]
    conditioning: Mapping[str, tuple[int, ...]]
    compute_s: float


@dataclass(frozen=True)
class Run:
    """The figures of one encoding over one link: seconds and bytes; of steps, medians after the run has settled.

    Attributes:
        through: the reverse proxy before the worker.
        first_s: the first step, which brings the conditioning.
        step_s: compute and `network_s`.
        whole_s: the whole run; None for the naive stack, of which only some calls are made.
        network_s: of a step beyond its compute.
        coding_s: of a step, packing, encoding and decoding as far as both sides measure them; part of `network_s`.
        limit_s: compute + round trip + these bytes / bandwidth.
        ratio: of the step to that.
        gain: the slowest naive stack's `network_s` over this one.
        equal: whether the final latent is the uncompressed run's to the bit; None where that was not run.
    """

    model: str
    link: str
    through: str
    way: str
    lossless: bool
    steps: int
    compute_s: float
    first_s: float
    step_s: float
    whole_s: float | None
    network_s: float
    coding_s: float | None
    bytes_up: int
    bytes_down: int
    limit_s: float
    ratio: float
    gain: float | None = None
    equal: bool | None = None


@dataclass(frozen=True)
class Plan:
    """The runs to make of one model.

    Attributes:
        compute_s: of a call.
        through: reverse proxies that stand before the worker afterwards, one at a time, in runs of `PROXIED_WAYS`.
        longest_pause_s: the worker takes no longer than that; what the model takes beyond is added to the figures.
            To a connection a longer pause is no other.
    """

    model: Model
    compute_s: float
    links: Sequence[Link]
    ways: Sequence[str]
    naive: Sequence[str]
    steps: int
    seed: int
    kind: Kind
    through: Sequence[str] = ()
    longest_pause_s: float = 1.0

    @property
    def pause_s(self) -> float:
        """Return the seconds that the worker takes."""
        return min(self.compute_s, self.longest_pause_s)


@dataclass(frozen=True)
class Calls:
    """The seconds of calls beyond their compute, and the bytes that they moved; the first call comes first."""

    network_s: Sequence[float]
    bytes_up: int
    bytes_down: int
    coding_s: float | None = None
    settling: int = 0
    result: str = ""


def measure(plan: Plan) -> Iterator[Run]:
    """Yield the runs of one model; for each link the naive stack first."""
    proxied_ways = [name for name in PROXIED_WAYS if name in plan.ways]
    legs = [(DIRECT, plan.ways), *((name, proxied_ways) for name in plan.through)]
    count = len(plan.links) * (len(plan.naive) + sum(len(ways) for _, ways in legs))
    progress = arguments.progress(total=count, unit="run")
    with ExitStack() as stack:
        stack.enter_context(progress)
        worker = _port(stack.enter_context(mosaic_worker(plan.pause_s)))
        naive = stack.enter_context(naive_stack.naive_server(plan.pause_s))
        served = [(DIRECT, plan.naive, naive, _naive)]
        served += [(name, ways, stack.enter_context(proxied(name, worker)), _ours) for name, ways in legs]
        for link in plan.links:
            made: dict[tuple[str, str], Calls] = {}
            for through, names, target, measured in served:
                with emulated(link, target, plan.kind) as port:
                    for name in names:
                        progress.set_description(f"{plan.model.title}, {link}, {through}, {name}")
                        made[through, name] = measured(port, name, plan)
                        progress.update()
            yield from _runs(made, link, plan)


def _runs(made: Mapping[tuple[str, str], Calls], link: Link, plan: Plan) -> Iterator[Run]:
    medians = {key: statistics.median(calls.network_s[calls.settling :]) for key, calls in made.items()}
    naive_s = max((medians[DIRECT, name] for name in plan.naive), default=None)
    plain = next((calls.result for (_, name), calls in made.items() if name == "raw"), None)
    for (through, name), calls in made.items():
        limit_s = plan.compute_s + link.ideal_s(calls.bytes_up, calls.bytes_down)
        step_s = plan.compute_s + medians[through, name]
        count, is_ours = len(calls.network_s), name in WAYS
        yield Run(
            model=plan.model.title,
            link=str(link),
            through=through,
            way=name,
            lossless=not is_ours or WAYS[name].codec.lossless,
            steps=count,
            compute_s=plan.compute_s,
            first_s=plan.compute_s + calls.network_s[0],
            step_s=step_s,
            whole_s=count * plan.compute_s + sum(calls.network_s) if is_ours else None,
            network_s=medians[through, name],
            coding_s=calls.coding_s,
            bytes_up=calls.bytes_up,
            bytes_down=calls.bytes_down,
            limit_s=limit_s,
            ratio=step_s / limit_s,
            gain=None if naive_s is None else naive_s / medians[through, name],
            equal=calls.result == plain if is_ours and plain else None,
        )


def session_over(port: int, options: SessionOptions) -> Session:
    """Return a session that behaves as over a network, whatever the address."""
    return Session(websocket(f"http://127.0.0.1:{port}"), options)


def conditioning(model: Model, seed: int) -> dict[str, torch.Tensor]:
    """Noise, in the model's dtype."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator).to(model.dtype) for name, shape in model.conditioning.items()
    }


def _port(url: str) -> int:
    return int(url.rsplit(":", 1)[1])


@dataclass(frozen=True)
class Followed:
    """A run's calls: what each took in all, and where that went; and the final latent."""

    times: Sequence[float]
    timings: Sequence[CallTimings]
    final: torch.Tensor

    @property
    def beyond_compute_s(self) -> list[float]:
        """Return the seconds of each call beyond the worker's compute."""
        return [total_s - call.compute_s for total_s, call in zip(self.times, self.timings, strict=True)]


def follow(
    session: Session,
    latent: tuple[int, ...],
    dtype: torch.dtype,
    constant: Mapping[str, torch.Tensor],
    *,
    steps: int,
    seed: int,
) -> Followed:
    """Run so many steps through that session, with these further arguments in each call."""
    remote, times = session.model("echo"), []

    def call(latent: torch.Tensor, timestep: torch.Tensor) -> Any:
        # New tensors of the same content, as ComfyUI makes them for every step.
        again = {name: value.clone() for name, value in constant.items()}
        started = perf_counter()
        value = remote(latent, timestep, **again)
        times.append(perf_counter() - started)
        return value

    *_, final = run(call, latent, dtype, steps=steps, seed=seed)
    return Followed(times, remote.timings_since(0), final)


def _ours(port: int, name: str, plan: Plan) -> Calls:
    model, constant = plan.model, conditioning(plan.model, plan.seed)
    with session_over(port, WAYS[name]) as session:
        made = follow(session, model.latent, model.dtype, constant, steps=plan.steps, seed=plan.seed)
    settled = made.timings[_SETTLING:]
    return Calls(
        made.beyond_compute_s,
        int(statistics.median(call.bytes_up for call in settled)),
        int(statistics.median(call.bytes_down for call in settled)),
        statistics.median(call.pack_s + call.encode_s + call.worker_decode_s + call.decode_s for call in settled),
        _SETTLING,
        hashlib.sha256(made.final.numpy().tobytes()).hexdigest(),
    )


def _naive(port: int, name: str, plan: Plan) -> Calls:
    tensors = {"x": torch.randn(plan.model.latent).to(plan.model.dtype), **conditioning(plan.model, plan.seed)}
    times, sizes = [], (0, 0)
    for step in range(_NAIVE_CALLS):
        started = perf_counter()
        sizes = naive_stack.call(port, name, {**tensors, "sigma": torch.tensor([float(step)])})
        times.append(perf_counter() - started - plan.pause_s)
    return Calls(times, *sizes)
