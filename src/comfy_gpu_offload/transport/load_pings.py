"""Requests that count as load at an endpoint which does not count an open WebSocket, made while calls run over one.

Without them a platform that scales to zero stops a worker in the middle of a call. They end with the calls, because
a worker that is kept running is billed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

# RunPod's shortest usual idle time is 5 s: one ping may be lost.
EVERY_S = 2.0
# The steps of a run follow each other sooner than this. A thread for each would cost more than one that waits.
_LINGER_S = 10.0


class LoadPings:
    """Calls `ask` by the clock while at least one call runs. Thread-safe.

    Args:
        ask: makes one request, and raises nothing.
        every_s: seconds from one request to the next; also from the first call to the first request, since opening
            a connection was one. By default `EVERY_S`.
    """

    def __init__(self, ask: Callable[[], object], every_s: float | None = None) -> None:
        self._ask = ask
        self._every_s = EVERY_S if every_s is None else every_s
        self.forked()

    def forked(self) -> None:
        """Begin anew in a forked process, where the thread does not run."""
        self._changed = threading.Condition()
        self._calls = 0
        self._ending: threading.Event | None = None  # of the thread that runs

    @contextmanager
    def during_call(self) -> Iterator[None]:
        """Count the block as a call."""
        with self._changed:
            self._calls += 1
            if self._ending is None:
                self._ending = threading.Event()
                name = "comfy-gpu-offload-load"
                threading.Thread(target=self._run, args=(self._ending,), name=name, daemon=True).start()
            elif self._calls == 1:
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._calls -= 1

    def close(self) -> None:
        """End the thread, unless a call runs. A later call starts another."""
        with self._changed:
            if self._ending is not None and self._calls == 0:
                self._ending.set()
                self._ending = None
                self._changed.notify_all()

    def _run(self, ending: threading.Event) -> None:
        due = monotonic() + self._every_s
        while self._has_calls(ending):
            left = due - monotonic()
            if left > 0:
                ending.wait(left)
                continue
            self._ask()
            due = monotonic() + self._every_s

    def _has_calls(self, ending: threading.Event) -> bool:
        """Wait for a call, if none runs; return False if the thread is to end."""
        with self._changed:
            self._changed.wait_for(lambda: self._calls > 0 or ending.is_set(), _LINGER_S)
            if not ending.is_set() and self._calls == 0:
                self._ending = None
                return False
            return not ending.is_set()
