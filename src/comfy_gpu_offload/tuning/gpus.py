"""GPUs as figures: estimated seconds of a model's call, and dollars an hour.

**No time here is measured.** Seconds are operations of the call over the GPU's dense 16-bit rate by its data sheet,
times an efficiency that is assumed: 0.6, and 0.4 for Hopper, whose tensor cores PyTorch's kernels keep less busy. A
call takes 20 ms at least, in which Python starts its kernels. Real times are within `UNCERTAINTY` of that either
way; attention's kernel, 8-bit weights, `torch.compile` and weights that do not fit all matter. A worker's own
measurement is better, wherever there is one.
"""

from __future__ import annotations

from dataclasses import dataclass

from .models import ImageModel

UNCERTAINTY = 1.6
"""The factor by which a call may take more, or less, than is estimated here."""

_LEAST_CALL_S = 0.02


@dataclass(frozen=True)
class Device:
    """A GPU, or a CPU.

    Attributes:
        title: its name.
        peak: dense operations a second in 16 bits with float32 sums (float32 for the CPU), by its data sheet.
        efficiency: the share of them that a model gets; assumed.
        memory_gb: of a GPU; 0 where memory is the machine's.
        dollars_an_hour: RunPod's for a serverless worker (flex, https://docs.runpod.io/serverless/pricing, as read
            in 2026; it changes, and a pod costs less). 0 for what is not rented.
    """

    title: str
    peak: float
    efficiency: float
    memory_gb: int
    dollars_an_hour: float

    def call_s(self, model: ImageModel) -> float:
        """Return the estimated seconds of one call of the model."""
        return max(_LEAST_CALL_S, model.call_flop / (self.peak * self.efficiency))


def _hourly(dollars_a_second: float) -> float:
    return dollars_a_second * 3600


GPUS = {
    "3090": Device("RTX 3090", 71e12, 0.6, 24, _hourly(0.00019)),
    "4090": Device("RTX 4090", 165e12, 0.6, 24, _hourly(0.00031)),
    "l40s": Device("L40S", 362e12, 0.4, 48, _hourly(0.00053)),
    "a100": Device("A100 80 GB", 312e12, 0.6, 80, _hourly(0.00076)),
    "h100": Device("H100 SXM", 989e12, 0.4, 80, _hourly(0.00116)),
    "h200": Device("H200", 989e12, 0.4, 141, _hourly(0.00155)),
}
"""GPUs that RunPod rents, by the names that a command line takes."""


def named(device: str) -> Device | None:
    """Return the GPU that a worker's device is, by the name that its driver gives; None where it is not listed."""
    words = device.lower().replace("-", " ").split()
    return next((gpu for key, gpu in GPUS.items() if key in words), None)


OWN = {
    "cpu": Device("this CPU, taken for 8 cores of AVX2", 1e12, 0.5, 0, 0.0),
    "3060": Device("own RTX 3060", 26e12, 0.6, 12, 0.0),
    "3090": Device("own RTX 3090", 71e12, 0.6, 24, 0.0),
    "4090": Device("own RTX 4090", 165e12, 0.6, 24, 0.0),
}
"""What this machine may have itself, for comparison."""
