"""Turns among threads that send on one connection, so that a short message does not wait behind a long one."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from ..clock import CHECK_INTERVAL_S


class Turns:
    """A lock that is handed from thread to thread in the order in which they asked, urgent ones first. Thread-safe.

    A `threading.Lock` would go to the thread that releases it and asks again at once, as one that sends a long
    message in pieces does.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_taken = False
        self._urgent: deque[threading.Event] = deque()
        self._others: deque[threading.Event] = deque()

    def take(self, wait: Callable[[], None], *, urgent: bool = False) -> None:
        """Wait for the turn. `wait` is called ten times a second meanwhile; what it raises ends the wait."""
        queue = self._urgent if urgent else self._others
        with self._lock:
            if not self._is_taken:
                self._is_taken = True
                return
            given = threading.Event()
            queue.append(given)
        try:
            while not given.wait(CHECK_INTERVAL_S):
                wait()
        except BaseException:
            self._leave(queue, given)
            raise

    def take_if_free(self) -> bool:
        """Take the turn if nobody has it; return whether it was taken."""
        with self._lock:
            was_free, self._is_taken = not self._is_taken, True
        return was_free

    def release(self) -> None:
        """Hand the turn to whoever is next."""
        with self._lock:
            queue = self._urgent or self._others
            if queue:
                queue.popleft().set()
            else:
                self._is_taken = False

    def _leave(self, queue: deque[threading.Event], given: threading.Event) -> None:
        with self._lock:
            if not given.is_set():
                queue.remove(given)
                return
        self.release()  # it came between the last look and now
