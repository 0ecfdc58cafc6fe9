"""The threads of one connection's exchanges, which are used again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

Work = Callable[[], None]


class ExchangeThreads:
    """Threads that run what they are given. Thread-safe.

    The thread that was busy last is used first: torch keeps a team of threads for each thread that ever computed.
    `concurrent.futures` uses them in turns, and would have the interpreter wait for them at its end.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[SimpleQueue[Work | None]] = []
        self._is_closed = False

    def run(self, work: Work) -> None:
        """Run `work`, which must not raise, on a thread of its own.

        Raises:
            RuntimeError: the system has no more threads.
        """
        with self._lock:
            inbox = self._idle.pop() if self._idle else None
        if inbox is not None:
            inbox.put(work)
            return
        inbox = SimpleQueue()
        inbox.put(work)
        threading.Thread(target=self._serve, args=(inbox,), name="comfy-gpu-offload-exchange", daemon=True).start()

    def close(self) -> None:
        """End the idle threads now, and the others when they are done."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
        for inbox in idle:
            inbox.put(None)

    def _serve(self, inbox: SimpleQueue[Work | None]) -> None:
        while (work := inbox.get()) is not None:
            work()
            del work  # an idle thread keeps no frame alive
            with self._lock:
                if self._is_closed:
                    return
                self._idle.append(inbox)
