"""Who waits for a job at the worker: whether it is still there, and what it can be told meanwhile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Waiting:
    """What a job waits for.

    Attributes:
        ahead: how many jobs run before it, the running one among them.
        running: what the running one is.
        running_s: for how many seconds it has been running.
    """

    ahead: int
    running: str
    running_s: float

    def is_like(self, other: Waiting | None) -> bool:
        """Return whether the two differ in their seconds alone."""
        return other is not None and (self.ahead, self.running) == (other.ahead, other.running)

    def __str__(self) -> str:
        others = "1 other" if self.ahead == 1 else f"{self.ahead} others"
        return f"waiting at the worker behind {others}: {self.running}, {self.running_s:.0f} s"


class Caller(Protocol):
    """Whoever waits for a job. Asked on the thread that waits, about once a second."""

    def is_gone(self) -> bool:
        """Return whether nobody waits any more, so that the job need not run."""

    def tell(self, waiting: Waiting) -> bool:
        """Pass on what the job waits for; False where that may not arrive, so that it is asked to come again."""


class PatientCaller:
    """One that stays until it is answered, and need not be told anything."""

    def is_gone(self) -> bool:
        """See `Caller`."""
        return False

    def tell(self, _: Waiting) -> bool:
        """See `Caller`."""
        return True


PATIENT = PatientCaller()
