"""When to try again: exponential backoff with full jitter, bounded in total time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import SystemRandom
from time import monotonic, sleep

from ..transport.base import CHECK_INTERVAL_S, Check

_RANDOM = SystemRandom()


@dataclass(frozen=True)
class RetryPolicy:
    """Seconds. The n-th wait is drawn from 0.5 to 1 times ``first_s * 2**n``, at most `longest_s`."""

    total_s: float = 120.0
    first_s: float = 0.1
    longest_s: float = 3.0

    def delay_s(self, attempt: int) -> float:
        """How long to wait before attempt `attempt` + 1 (0 is the first)."""
        ceiling = min(self.longest_s, self.first_s * 2.0 ** min(attempt, 30))
        return ceiling * _RANDOM.uniform(0.5, 1.0)


class Patience:
    """One call's retries. Its time begins with the first failure."""

    def __init__(self, policy: RetryPolicy, check: Check | None, clock: Callable[[], float] = monotonic) -> None:
        self._policy = policy
        self._check = check
        self._clock = clock
        self._attempt = 0
        self._deadline: float | None = None

    def wait(self) -> bool:
        """Waits before the next attempt; False when the time is up. Whatever the check raises is raised."""
        now = self._clock()
        if self._deadline is None:
            self._deadline = now + self._policy.total_s
        until = now + self._policy.delay_s(self._attempt)
        self._attempt += 1
        if until > self._deadline:
            return False
        while (left := until - self._clock()) > 0:
            if self._check is not None:
                self._check()
            sleep(min(left, CHECK_INTERVAL_S))
        return True
