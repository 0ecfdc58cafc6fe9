"""An estimate of how to offload a sampling run: one call per step, or the whole loop as one job.

    each step   calls x (compute + coding + network of a call)
    whole loop  calls x compute + network of the job

Conditioning is sent once in either case, so it is left out. The network's share is measured with as many bytes as
will be sent, not computed from a bandwidth: the time of a transfer after a pause depends on more than the link's
rate.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from ..transport.base import Check
from .encoding.link_speed import Prober
from .timings import CallTimings

# The model calls per step of samplers that make more than one, by k-diffusion's and ComfyUI's definitions.
_CALLS_A_STEP = {
    **dict.fromkeys(("heun", "dpm_2", "dpm_2_ancestral", "dpmpp_sde", "dpmpp_sde_gpu", "seeds_2"), 2),
    **dict.fromkeys(("dpmpp_2s_ancestral", "dpmpp_2s_ancestral_cfg_pp", "exp_heun_2_x0", "exp_heun_2_x0_sde"), 2),
    **dict.fromkeys(("heunpp2", "seeds_3"), 3),
}
_PROBES = 3


# A message and its frame, without tensors.
_MESSAGE_BYTES = 1024


class Stored(NamedTuple):
    """The shares of a latent's bytes that encoding leaves: in a job, and in a call and its reply."""

    of_job: float
    of_call_up: float
    of_call_down: float


@dataclass(frozen=True)
class RunShape:
    """The size of a sampling run.

    Attributes:
        calls: the number of model calls.
        call_up, call_down: bytes that one call sends and receives, compressed.
        job_up, job_down: bytes that the whole loop sends and receives as one job, compressed.
        coding_s: seconds that encoding and decoding take for one call, both sides together.
    """

    calls: int
    call_up: int
    call_down: int
    job_up: int
    job_down: int
    coding_s: float = 0.0

    @classmethod
    def of(
        cls,
        calls: int,
        elements: int,
        call_bytes: int,
        stored: Stored,
        *,
        is_empty: bool,
        coding_s: float = 0.0,
    ) -> RunShape:
        """Return the shape of a run.

        Args:
            calls: the number of model calls.
            elements: of the run's latent, which a job sends and returns in float32.
            call_bytes: of the latent as a call sends it: in the model's dtype, and twice with guidance.
            stored: what encoding leaves of bytes.
            is_empty: whether the run begins with an empty latent. It is all zeros, which take no bytes once they
                are compressed.
            coding_s: seconds of encoding and decoding for one call, both sides together.
        """
        latent_bytes = int(elements * 4 * stored.of_job)
        return cls(
            calls=calls,
            call_up=int(call_bytes * stored.of_call_up) + _MESSAGE_BYTES,
            call_down=int(call_bytes * stored.of_call_down) + _MESSAGE_BYTES,
            job_up=(0 if is_empty else latent_bytes) + _MESSAGE_BYTES,
            job_down=latent_bytes + _MESSAGE_BYTES,
            coding_s=coding_s,
        )

    @property
    def is_smaller_as_job(self) -> bool:
        """Return whether the job sends no more, either way, than all calls together.

        It then is the faster way over any link, which need not be measured: it also takes fewer round trips.
        """
        return self.job_up <= self.calls * self.call_up and self.job_down <= self.calls * self.call_down


@dataclass(frozen=True)
class OffloadEstimate:
    """The expected duration of a run.

    Attributes:
        each_step_s: seconds with one call per step.
        whole_loop_s: seconds as one job.
        compute_s: seconds that the model takes for one call; None where that is not known yet, and left out.
    """

    each_step_s: float
    whole_loop_s: float
    compute_s: float | None

    @classmethod
    def of(
        cls, shape: RunShape, compute_s: float | None, call_network_s: float, job_network_s: float
    ) -> OffloadEstimate:
        """Return the estimate of a run: seconds of the network are those of one call, and of the job."""
        computing = shape.calls * (compute_s or 0.0)
        # A job encodes one latent in all, which is next to nothing.
        each_step_s = computing + shape.calls * (shape.coding_s + call_network_s)
        return cls(each_step_s, computing + job_network_s, compute_s)

    @property
    def whole_loop(self) -> bool:
        """Return whether the whole loop as one job is the faster one."""
        return self.whole_loop_s <= self.each_step_s

    def summary(self) -> str:
        """Return one line for the log."""
        known = "" if self.compute_s is not None else ", without the model's own time, which is not known yet"
        choice = "whole loop" if self.whole_loop else "each step"
        times = f"{self.whole_loop_s:.2f} s as one job, {self.each_step_s:.2f} s with a call per step"
        return f"{choice}: expected {times}{known}"


def calls_of(sampler: str, steps: int) -> int:
    """Return the number of model calls of a sampler; the last step of one with several calls per step takes one."""
    a_step = _CALLS_A_STEP.get(sampler, 1)
    return max(1, a_step * steps - (a_step - 1))


def draws_noise_each_step(sampler: str) -> bool:
    """Return whether a sampler adds new noise in its steps, so that the next latent cannot be predicted."""
    return (
        "ancestral" in sampler
        or "sde" in sampler
        or sampler.startswith("seeds_")
        or sampler in {"ddpm", "lcm", "sa_solver", "sa_solver_pece"}
    )


class OffloadEstimator:
    """Estimates of runs over one session, by what it has measured. Not thread-safe."""

    def __init__(self, prober: Prober) -> None:
        self._prober = prober
        self._network_s: dict[tuple[int, int], float] = {}

    def estimate(self, shape: RunShape, compute_s: float | None, check: Check | None = None) -> OffloadEstimate:
        """Estimate a run of that shape whose model takes `compute_s` seconds per call.

        Raises:
            OffloadError: the worker cannot be asked.
        """
        call_s = self._network(shape.call_up, shape.call_down, check)
        job_s = self._network(shape.job_up, shape.job_down, check)
        return OffloadEstimate.of(shape, compute_s, call_s, job_s)

    def _network(self, up: int, down: int, check: Check | None) -> float:
        """Return the seconds that so many bytes take; measured once for similar sizes."""
        key = (_rounded(up), _rounded(down))
        if key not in self._network_s:
            times = [self._prober.probe(*key, check=check) for _ in range(_PROBES)]
            # A median: the first may have opened the connection, and another may have met a busy moment.
            self._network_s[key] = statistics.median(times)
        return self._network_s[key]


def _rounded(size: int) -> int:
    """Round up to a quarter of the magnitude, so that similar sizes share a measurement; at most 64 MiB."""
    unit = max(1024, 1 << max(0, size.bit_length() - 3))
    return min(-(-size // unit) * unit, 64 * 1024**2)


def compute_of(timings: Iterable[CallTimings]) -> float | None:
    """Return the median seconds of compute of the last twenty forward calls; None if there were none."""
    computed = [timing.compute_s for timing in timings if timing.compute_s > 0][-20:]
    return statistics.median(computed) if computed else None
