"""Which way a sampling run is the faster one: a call a step, or the whole loop as one job.

    each step   calls x (compute + network of a call)
    whole loop  calls x compute + network of the job

Conditioning crosses once either way, so it is left out. The network's share is measured with as many bytes as will
cross, not computed from a bandwidth: what a transfer takes after a pause depends on more than the link's rate.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from ..transport.base import Check
from .timings import CallTimings

# Model calls a step beyond one, by k-diffusion's and ComfyUI's own definitions of these samplers.
_CALLS_A_STEP = {
    **dict.fromkeys(("heun", "dpm_2", "dpm_2_ancestral", "dpmpp_sde", "dpmpp_sde_gpu", "seeds_2"), 2),
    **dict.fromkeys(("dpmpp_2s_ancestral", "dpmpp_2s_ancestral_cfg_pp", "exp_heun_2_x0", "exp_heun_2_x0_sde"), 2),
    **dict.fromkeys(("heunpp2", "seeds_3"), 3),
}
_PROBES = 3


class Prober(Protocol):
    """What measures the link: a `Link`."""

    def probe(self, up_bytes: int = 0, down_bytes: int = 0, *, check: Check | None = None) -> float:
        """See `Link.probe`."""


@dataclass(frozen=True)
class RunShape:
    """What a run is made of. Bytes as they cross, compressed.

    Attributes:
        calls: model calls in all.
        call_up, call_down: of one call.
        job_up, job_down: of the whole loop as one job.
    """

    calls: int
    call_up: int
    call_down: int
    job_up: int
    job_down: int


@dataclass(frozen=True)
class Plan:
    """Seconds that a run is going to take, each way. `compute_s` of a call, None where it is not known yet."""

    each_step_s: float
    whole_loop_s: float
    compute_s: float | None

    @property
    def whole_loop(self) -> bool:
        """Whether the whole loop is the faster one."""
        return self.whole_loop_s <= self.each_step_s

    def summary(self) -> str:
        """One line for the log."""
        known = "" if self.compute_s is not None else ", without the model's own time, which is not known yet"
        choice = "whole loop" if self.whole_loop else "each step"
        times = f"{self.whole_loop_s:.2f} s as one job, {self.each_step_s:.2f} s a call a step"
        return f"{choice}: expected {times}{known}"


def stored_share(codec: str) -> float:
    """What is left of a bfloat16 latent's bytes with that codec: docs/benchmarks.md, "Codecs"."""
    return {"raw": 1.0, "zstd": 0.78, "planes": 0.67, "auto": 0.67, "int4-block": 0.28}.get(codec, 0.5)


PREDICTED_SHARES = (0.1, 0.35)
"""What is left of a call's latent, up and down, where it travels predicted: docs/benchmarks.md, "Prediction"."""


def calls_of(sampler: str, steps: int) -> int:
    """How often a sampler calls the model in so many steps; the last step of a two-call sampler takes one."""
    a_step = _CALLS_A_STEP.get(sampler, 1)
    return max(1, a_step * steps - (a_step - 1))


class Planner:
    """Predicts runs over one session, from what it has measured. Not thread-safe."""

    def __init__(self, prober: Prober) -> None:
        self._prober = prober
        self._network_s: dict[tuple[int, int], float] = {}

    def plan(self, shape: RunShape, compute_s: float | None, check: Check | None = None) -> Plan:
        """The times of a run of that shape.

        Raises:
            OffloadError: the worker cannot be asked.
        """
        computing = shape.calls * (compute_s or 0.0)
        call_s = self._network(shape.call_up, shape.call_down, check)
        job_s = self._network(shape.job_up, shape.job_down, check)
        return Plan(computing + shape.calls * call_s, computing + job_s, compute_s)

    def _network(self, up: int, down: int, check: Check | None) -> float:
        """Seconds that so many bytes take; measured once for sizes alike."""
        key = (_rounded(up), _rounded(down))
        if key not in self._network_s:
            times = [self._prober.probe(*key, check=check) for _ in range(_PROBES)]
            # The first may have made the connection, and a busy moment counts less than a quiet one.
            self._network_s[key] = statistics.median(times)
        return self._network_s[key]


def _rounded(size: int) -> int:
    """To a quarter of its magnitude, so that pictures of about one size share a measurement; at most 64 MB."""
    unit = max(1024, 1 << max(0, size.bit_length() - 3))
    return min(-(-size // unit) * unit, 64 * 1024**2)


def compute_of(timings: Iterable[CallTimings]) -> float | None:
    """Seconds of compute of a forward call, by the last ones; None where there were none."""
    computed = [timing.compute_s for timing in timings if timing.compute_s > 0][-20:]
    return statistics.median(computed) if computed else None
