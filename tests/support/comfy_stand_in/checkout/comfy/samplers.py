"""ComfyUI's samplers."""

from dataclasses import dataclass
from typing import Any


class KSampler:
    """Names of samplers and schedulers."""

    SAMPLERS = ["euler", "heun"]  # noqa: RUF012  # ComfyUI's own
    SCHEDULERS = ["simple", "normal"]  # noqa: RUF012


@dataclass
class SchedulerHandler:
    """A scheduler."""

    handler: Any


def simple_scheduler(model_sampling: Any, steps: int) -> Any:
    """Return sigmas."""


SCHEDULER_HANDLERS = {"simple": SchedulerHandler(simple_scheduler), "normal": SchedulerHandler(simple_scheduler)}
