"""A clock, which tests replace, and waiting that can be interrupted."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

# Called during a wait; whatever it raises ends the wait and is raised to the caller.
Check = Callable[[], None]
CHECK_INTERVAL_S = 0.1


@dataclass(frozen=True)
class Clock:
    """A source of time. `monotonic` and `wall` (since 1970) in seconds."""

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep

    def wait(self, seconds: float, check: Check | None = None) -> None:
        """Wait, and call `check` at least every 0.1 s; whatever it raises is raised."""
        until = self.monotonic() + seconds
        while (left := until - self.monotonic()) > 0:
            if check is not None:
                check()
            self.sleep(min(left, CHECK_INTERVAL_S))
