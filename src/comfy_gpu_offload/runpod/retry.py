"""Retries of requests to RunPod: exponential backoff with full jitter, bounded in attempts and in time.

This is not the policy of `client.retry`, which knows time alone. RunPod bills jobs and limits the rate of requests,
so attempts are counted here, those without a connection on their own, and a reply may ask for a wait (Retry-After).
The two would share the power of two and nothing else.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from random import SystemRandom

from ..errors import RunPodError, RunPodNetworkError
from ..net.clock import Check, Clock

logger = logging.getLogger(__name__)

_RANDOM = SystemRandom()


@dataclass(frozen=True)
class RetryPolicy:
    """Bounds on attempts and waits. The n-th wait is drawn from 0 to ``first_s * 2**n``, at most `longest_s`.

    Attributes:
        attempts: in all, the first one included.
        connect_attempts: of these, how many may end without a connection.
        total_s: seconds from the first attempt to the beginning of the last.
    """

    attempts: int = 6
    connect_attempts: int = 3
    total_s: float = 60.0
    first_s: float = 0.25
    longest_s: float = 8.0

    def delay_s(self, failures: int) -> float:
        """Return how many seconds to wait after that many failures (1 is the first)."""
        ceiling = min(self.longest_s, self.first_s * 2.0 ** min(failures - 1, 30))
        return _RANDOM.uniform(0.0, ceiling)


class Retries:
    """One call's retries. Their time begins when this is made.

    Args:
        deadline: by the clock's monotonic time; ends the retries earlier than the policy where it comes earlier.
    """

    def __init__(
        self, policy: RetryPolicy, clock: Clock, check: Check | None = None, deadline: float | None = None
    ) -> None:
        self._policy = policy
        self._clock = clock
        self._check = check
        self._deadline = clock.monotonic() + policy.total_s
        if deadline is not None:
            self._deadline = min(self._deadline, deadline)
        self._failures = 0
        self._unconnected = 0

    def wait_after(self, error: RunPodError) -> bool:
        """Wait before the next attempt and return True; return False at once where there must be none.

        Whatever the check raises is raised.
        """
        self._count(error)
        if not error.retryable or self._is_spent():
            return False
        delay = self._policy.delay_s(self._failures)
        if error.retry_after_s is not None:
            delay = max(delay, error.retry_after_s)
        if self._clock.monotonic() + delay > self._deadline:
            return False
        logger.info("Asking RunPod again in %.1f s, after %s", delay, type(error).__name__)
        self._clock.wait(delay, self._check)
        return True

    def _count(self, error: RunPodError) -> None:
        self._failures += 1
        if isinstance(error, RunPodNetworkError) and not error.connected:
            self._unconnected += 1

    def _is_spent(self) -> bool:
        return self._failures >= self._policy.attempts or self._unconnected >= self._policy.connect_attempts


def seconds_of(retry_after: str | None, now: float) -> float | None:
    """Return a ``Retry-After`` header in seconds from `now` (since 1970), or None if it is missing or not valid.

    Source: RFC 9110, 10.2.3: a number of seconds, or an HTTP date.
    """
    text = (retry_after or "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        when = parsedate_to_datetime(text)
        aware = when if when.tzinfo is not None else when.replace(tzinfo=UTC)
        return max(0.0, aware.timestamp() - now)
    except (TypeError, ValueError, OverflowError):
        return None
