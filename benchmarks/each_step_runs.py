"""Whole each-step runs over emulated links: every compression setting, the naive stack, and what a link allows."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from time import perf_counter
from typing import get_args

import torch
from tqdm import tqdm

import naive_stack
from comfy_gpu_offload.client.session import Session, SessionOptions
from comfy_gpu_offload.config.settings import Compression
from comfy_gpu_offload.io import codecs
from comfy_gpu_offload.transport.http import HttpTransport
from echo_worker import echo_worker
from emulated_link import Kind, Link, emulated

SETTINGS: tuple[str, ...] = get_args(Compression)
_NAIVE_STEPS = 3


@dataclass(frozen=True)
class Run:
    """One way over one link. Medians over the steps after the first; seconds and bytes.

    Attributes:
        ideal_s: compute + round trip + this way's bytes / bandwidth: what the link allows.
        ratio: of the step to that.
        network_gain: the slowest naive stack's time over compute, divided by this way's.
    """

    link: str
    way: str
    lossless: bool
    steps: int
    first_s: float
    step_s: float
    bytes_up: int
    bytes_down: int
    ideal_s: float
    ratio: float
    network_gain: float | None = None


def session_over(port: int, setting: str) -> Session:
    """A session with that setting as it means over a network: `auto` is none with a worker on this machine."""
    codec = codecs.RAW if setting == "none" else codecs.wanted(setting)
    transport = HttpTransport(f"http://127.0.0.1:{port}", keep_warm=True)
    return Session(transport, SessionOptions(codec=codec))


def latents(shape: tuple[int, ...], dtype: torch.dtype, steps: int, seed: int) -> list[torch.Tensor]:
    """A sampler's inputs, as far as a codec sees them: one picture, with less noise in it each step."""
    generator = torch.Generator().manual_seed(seed)
    picture, noise = torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)
    levels = torch.linspace(1, 1 / (steps + 1), steps + 1).tolist()
    return [((1 - level) * picture + level * noise).to(dtype) for level in levels]


def measure(
    links: list[Link],
    shape: tuple[int, ...],
    dtype: torch.dtype,
    conditioning: Mapping[str, tuple[int, ...]],
    *,
    compute_s: float,
    steps: int,
    seed: int,
    settings: tuple[str, ...] = SETTINGS,
    kind: Kind | None = None,
) -> Iterator[Run]:
    """Runs of so many steps; for each link the naive stack first."""
    inputs = latents(shape, dtype, steps, seed)
    constant = {name: torch.randn(size).to(dtype) for name, size in conditioning.items()}
    with ExitStack() as stack:
        url = stack.enter_context(echo_worker(compute_s))
        worker, plain = int(url.rsplit(":", 1)[1]), stack.enter_context(naive_stack.naive_server(compute_s))
        progress = stack.enter_context(tqdm(total=len(links) * (len(settings) + 2), leave=False, unit="run"))
        for link in links:
            rows = []
            with emulated(link, plain, kind) as port:
                for way in naive_stack.FORMATS:
                    progress.set_description(f"{link}, {way}")
                    rows.append(_naive(link, port, way, inputs[: _NAIVE_STEPS + 1], constant, compute_s=compute_s))
                    progress.update()
            naive_s = max(row.step_s for row in rows) - compute_s
            with emulated(link, worker, kind) as port:
                for setting in settings:
                    progress.set_description(f"{link}, {setting}")
                    rows.append(_ours(link, port, setting, inputs, constant, compute_s=compute_s))
                    progress.update()
            yield from (_with_gain(row, naive_s, compute_s) for row in rows)


def _with_gain(row: Run, naive_s: float, compute_s: float) -> Run:
    return Run(**{**row.__dict__, "network_gain": naive_s / max(row.step_s - compute_s, 1e-9)})


def _ours(
    link: Link,
    port: int,
    setting: str,
    inputs: list[torch.Tensor],
    constant: Mapping[str, torch.Tensor],
    *,
    compute_s: float,
) -> Run:
    times = []
    with session_over(port, setting) as session:
        model = session.model("echo")
        for step, latent in enumerate(inputs):
            sigma = torch.tensor([float(step)])
            # New tensors of the same content, as ComfyUI makes them for every step.
            again = {name: value.clone() for name, value in constant.items()}
            started = perf_counter()
            model(latent, sigma, **again)
            times.append(perf_counter() - started)
        timings = list(model.timings)[-len(inputs) + 1 :]
    up = statistics.median(call.bytes_up for call in timings)
    down = statistics.median(call.bytes_down for call in timings)
    codec = None if setting in {"none", "auto"} else codecs.wanted(setting)
    return _run(link, setting, times, (up, down), lossless=getattr(codec, "lossless", True), compute_s=compute_s)


def _naive(
    link: Link,
    port: int,
    way: str,
    inputs: list[torch.Tensor],
    constant: Mapping[str, torch.Tensor],
    *,
    compute_s: float,
) -> Run:
    times, sizes = [], (0, 0)
    for step, latent in enumerate(inputs):
        started = perf_counter()
        sizes = naive_stack.call(port, way, {"x": latent, "sigma": torch.tensor([float(step)]), **constant})
        times.append(perf_counter() - started)
    return _run(link, way, times, sizes, compute_s=compute_s)


def _run(
    link: Link, way: str, times: list[float], sizes: tuple[float, float], *, lossless: bool = True, compute_s: float
) -> Run:
    ideal_s, step_s = compute_s + link.ideal_s(*sizes), statistics.median(times[1:])
    return Run(
        link=str(link),
        way=way,
        lossless=lossless,
        steps=len(times) - 1,
        first_s=times[0],
        step_s=step_s,
        bytes_up=int(sizes[0]),
        bytes_down=int(sizes[1]),
        ideal_s=ideal_s,
        ratio=step_s / ideal_s,
    )
