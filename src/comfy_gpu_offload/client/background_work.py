"""Work that is begun before its result is needed, on a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Generic, TypeVar

from ..transport.base import CHECK_INTERVAL_S, Check

T = TypeVar("T")


class BackgroundWork(Generic[T]):
    """One piece of work that is under way. Its result is for one thread."""

    def __init__(self, work: Callable[[Check], T], name: str) -> None:
        """Begin `work`, which calls the check that it is given while it waits. `name`: of the thread."""
        self._work = work
        self._ended = threading.Event()
        self._is_abandoned = False
        self._returned: list[T] = []
        self._raised: BaseException | None = None
        # A daemon: the interpreter must not wait for a worker when it ends.
        threading.Thread(target=self._run, name=f"comfy-gpu-offload-{name}", daemon=True).start()

    def result(self, check: Check | None) -> T:
        """Wait for the result and return it. What `check` raises ends the wait and the work.

        Raises:
            Whatever the work raised.
        """
        try:
            while not self._ended.wait(CHECK_INTERVAL_S):
                if check is not None:
                    check()
        except BaseException:
            self.abandon()
            raise
        if self._raised is not None:
            raise self._raised
        return self._returned[0]

    def abandon(self) -> None:
        """End the work soon, if it has not ended: nobody will ask for its result."""
        self._is_abandoned = True

    def _run(self) -> None:
        try:
            self._returned.append(self._work(self._check))
        except BaseException as error:
            self._raised = error
        finally:
            self._ended.set()

    def _check(self) -> None:
        if self._is_abandoned:
            raise CancelledError
