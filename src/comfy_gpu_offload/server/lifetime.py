"""The end of a worker that nobody asked to stop: after an idle time, or at a hard limit."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic

logger = logging.getLogger(__name__)

Clock = Callable[[], float]

_LOOK_EVERY_S = 1.0
# The log says it so long before the worker leaves.
_WARN_S = 60.0


class Activity:
    """The use that is made of a worker: how much is under way, and how long ago the last ended. Thread-safe.

    Calls, sampling runs, the loading of a model, uploads and downloads are use. Pings, a hello without a model,
    measurements of the link, signs of life and an open connection are not.
    """

    def __init__(self, clock: Clock = monotonic) -> None:
        """Begin as if used just now; `clock` counts seconds."""
        self._clock = clock
        self._under_way = 0
        self._used_at = clock()
        self._lock = threading.Lock()

    def use(self) -> None:
        """Record a use."""
        with self._lock:
            self._used_at = self._clock()

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Record a use that goes on until the block ends."""
        with self._lock:
            self._under_way += 1
        try:
            yield
        finally:
            with self._lock:
                self._under_way -= 1
                self._used_at = self._clock()

    @property
    def idle_s(self) -> float:
        """Return the seconds since the last use, 0 while one is under way."""
        with self._lock:
            return 0.0 if self._under_way else self._clock() - self._used_at


@dataclass(frozen=True)
class LifetimeLimits:
    """The limits of a worker's life, in seconds; 0 for none.

    Attributes:
        idle_s: without use, after which it leaves.
        at_most_s: from its start, after which it leaves whatever it does. Only a call that runs then may finish.
    """

    idle_s: float = 0.0
    at_most_s: float = 0.0


class Lifetime:
    """A worker's limits, and how near they are."""

    def __init__(self, limits: LifetimeLimits, activity: Activity, clock: Clock = monotonic) -> None:
        """Begin the worker's life now."""
        self._limits = limits
        self._activity = activity
        self._clock = clock
        self._began_at = clock()
        self._warned_of: str | None = None

    def reason_to_leave(self) -> str | None:
        """Return why the worker leaves now, or None. Warns in the log a minute before, once for each idle time."""
        idle_s, lived_s = self._activity.idle_s, self._clock() - self._began_at
        if 0 < self._limits.at_most_s <= lived_s:
            return f"its hard limit of {_minutes(self._limits.at_most_s)} is over"
        if 0 < self._limits.idle_s <= idle_s:
            return f"nobody has used it for {_minutes(self._limits.idle_s)}"
        self._warn(idle_s, lived_s)
        return None

    def _warn(self, idle_s: float, lived_s: float) -> None:
        left_idle_s, left_s = self._limits.idle_s - idle_s, self._limits.at_most_s - lived_s
        if 0 < left_s <= _WARN_S:
            warning, text, in_s = "limit", "this worker leaves in %.0f s, at its hard limit", left_s
        elif 0 < left_idle_s <= min(_WARN_S, self._limits.idle_s / 2):
            warning, text, in_s = "idle", "this worker leaves in %.0f s unless it is used", left_idle_s
        else:
            self._warned_of = None
            return
        if warning != self._warned_of:
            logger.warning(text, in_s)
        self._warned_of = warning


async def watch(lifetime: Lifetime, stopping: asyncio.Event, every_s: float = _LOOK_EVERY_S) -> None:
    """Set `stopping` once there is a reason to leave."""
    while (reason := lifetime.reason_to_leave()) is None:
        await asyncio.sleep(every_s)
    logger.warning("this worker leaves: %s", reason)
    stopping.set()


def told(limits: LifetimeLimits) -> str:
    """Return the limits in words for users; empty without any."""
    words = []
    if limits.idle_s:
        words.append(f"after {_minutes(limits.idle_s)} without use")
    if limits.at_most_s:
        words.append(f"after {_minutes(limits.at_most_s)} at the latest")
    return " and ".join(words)


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.3g} minutes" if seconds < 7200 else f"{seconds / 3600:.3g} hours"
