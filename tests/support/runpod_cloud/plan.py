"""Plans of how the pods of the stand-in go, and what it has in stock."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

NO_CAPACITY = (
    "There are no longer any instances available with the requested specifications. Please refresh and try again."
)
DATA_CENTRES = ("EU-RO-1", "US-KS-2")


@dataclass(frozen=True)
class PodPlan:
    """The course of one pod. Stages last for a number of looks at the pod, so that tests need not wait.

    Attributes:
        provisioning, starting: looks at which the pod is in these stages.
        outcome: what comes then. `stuck` never leaves PROVISIONING; `vanishes` is gone, and bills no more.
        lies: it is RUNNING, and nothing ever listens.
        refusals: requests to its address that are answered 502 although the worker runs.
        vanishes_after: looks after which a pod that ran is gone; None for never.
        log: lines of the machine, before those of the worker.
        undeletable: how often a delete is accepted without effect.
    """

    provisioning: int = 1
    starting: int = 1
    outcome: Literal["running", "error", "exited", "stuck", "vanishes"] = "running"
    lies: bool = False
    refusals: int = 0
    vanishes_after: int | None = None
    log: tuple[str, ...] = ("create container", "start container")
    undeletable: int = 0


@dataclass(frozen=True)
class Gpu:
    """A type of GPU in stock. Prices in dollars per hour."""

    id: str
    name: str
    pool: str | None
    memory: int
    secure: float
    community: float
    serverless: float


@dataclass
class Capacity:
    """The stock. `empty` holds GPU ids, or ids with a cloud or a data centre: ``"NVIDIA L4 COMMUNITY"``.

    A create fails for what is empty. The catalogue says so too, unless it `is_late`.
    """

    gpus: tuple[Gpu, ...] = (
        Gpu("NVIDIA RTX A4000", "RTX A4000", "AMPERE_16", 16, 0.25, 0.17, 0.58),
        Gpu("NVIDIA L4", "L4", "AMPERE_24", 24, 0.39, 0.29, 0.68),
        Gpu("NVIDIA GeForce RTX 4090", "RTX 4090", "ADA_24", 24, 0.69, 0.34, 1.12),
        Gpu("NVIDIA L40S", "L40S", "ADA_48_PRO", 48, 0.86, 0.79, 1.91),
        Gpu("NVIDIA A100 80GB PCIe", "A100 PCIe", "AMPERE_80", 80, 1.64, 1.19, 2.74),
    )
    empty: set[str] = field(default_factory=set)
    is_late: bool = False

    def has(self, gpu_id: str, *places: str) -> bool:
        """Return whether there is such a GPU in a place: a cloud, or a data centre."""
        return not {gpu_id, *(f"{gpu_id} {place}" for place in places)} & self.empty

    def gpu(self, gpu_id: str) -> Gpu | None:
        """Return the type with that id."""
        return next((gpu for gpu in self.gpus if gpu.id == gpu_id), None)
