"""The schedule of polls for a job, until the time allowed is over."""

from __future__ import annotations

from ..errors import RunPodJobUnfinishedError
from ..net.clock import Check, Clock
from .options import RunPodOptions


class Polls:
    """The polls for one job. Their time begins when this is made.

    Attributes:
        deadline: when it ends, by the clock's monotonic time.
    """

    def __init__(
        self, job_id: str, options: RunPodOptions, clock: Clock, timeout_s: float, check: Check | None
    ) -> None:
        self._job_id = job_id
        self._options = options
        self._clock = clock
        self._timeout_s = timeout_s
        self._check = check
        self.deadline = clock.monotonic() + timeout_s
        self._interval_s = options.poll_first_s

    def pause(self) -> None:
        """Wait until the next poll, each time longer. The last poll is at the deadline.

        Raises:
            RunPodJobUnfinishedError: the deadline has passed.
            Whatever the check raises.
        """
        left = self.deadline - self._clock.monotonic()
        if left <= 0:
            raise RunPodJobUnfinishedError(
                f"The job {self._job_id} has not ended within {self._timeout_s:.0f} s; it still waits or runs, and "
                "is billed. Cancel it, or wait longer: a first job also waits for a worker to start.",
                job_id=self._job_id,
            )
        self._clock.wait(min(self._interval_s, left), self._check)
        self._interval_s = min(self._options.poll_longest_s, self._interval_s * self._options.poll_growth)

    def hasten(self) -> None:
        """Begin with short pauses again: something is happening."""
        self._interval_s = self._options.poll_first_s

    def request_timeout_s(self) -> float:
        """Return how long one poll may take: what the deadline leaves, but a second at least."""
        left = self.deadline - self._clock.monotonic()
        return min(self._options.status_timeout_s, max(1.0, left))
