"""The callers of jobs that wait in the queue: whether they are still there, and what they are told meanwhile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Waiting:
    """The jobs that a waiting job waits for.

    Attributes:
        ahead: the number of jobs that run before it, including the running one.
        running: the running job in words for users.
        running_s: seconds for which that has been running.
    """

    ahead: int
    running: str
    running_s: float

    def is_like(self, other: Waiting | None) -> bool:
        """Return whether the two differ in their seconds only."""
        return other is not None and (self.ahead, self.running) == (other.ahead, other.running)

    def __str__(self) -> str:
        others = "1 other" if self.ahead == 1 else f"{self.ahead} others"
        return f"waiting at the worker behind {others}: {self.running}, {self.running_s:.0f} s"


class Caller(Protocol):
    """Whoever waits for a job. Its methods are called on the thread that waits, about twice a second."""

    def is_gone(self) -> bool:
        """Return whether nobody waits any more: then the job need not run."""

    def tell(self, waiting: Waiting) -> bool:
        """Pass on what the job waits for; return False if that may not arrive.

        A caller that may not have been told is answered `busy` after a while, and asks again.
        """


class PatientCaller:
    """A caller that stays until it is answered and need not be told anything."""

    def is_gone(self) -> bool:
        """Return False; see `Caller`."""
        return False

    def tell(self, _: Waiting) -> bool:
        """Return True; see `Caller`."""
        return True


PATIENT = PatientCaller()
