"""Several exchanges at the same time, so that the link carries the next one while a reply is awaited."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ThreadPoolExecutor, wait
from types import TracebackType

from ..transport.base import CHECK_INTERVAL_S, Check


class Pipeline:
    """Jobs that run at the same time, on threads of their own, begun in the order given. Use it in a `with` block.

    Attributes:
        check: called during waits, on the caller's thread; what it raises ends the jobs.
    """

    def __init__(self, width: int, check: Check | None) -> None:
        """Run at most `width` jobs at the same time."""
        self._width = width
        self.check = check
        self._stop = threading.Event()
        self._threads = ThreadPoolExecutor(width, thread_name_prefix="comfy-gpu-offload-upload")
        self._under_way: dict[Future[object], Callable[[], None]] = {}

    def put(self, job: Callable[[Check], object], then: Callable[[], None] = lambda: None) -> None:
        """Begin `job` as soon as fewer than `width` run.

        Args:
            job: is given a check to call while it waits.
            then: called after its end, on the caller's thread; may put further jobs.

        Raises:
            BaseException: whatever an earlier job, or the check, raised.
        """
        self._wait_for(self._width - 1)
        self._under_way[self._threads.submit(job, self._go_on)] = then

    def finish(self) -> None:
        """Wait for the end of all jobs.

        Raises:
            BaseException: whatever one of them, or the check, raised.
        """
        self._wait_for(0)

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._threads.shutdown(cancel_futures=True)

    def _go_on(self) -> None:
        if self._stop.is_set():
            raise CancelledError

    def _wait_for(self, count: int) -> None:
        """Wait until at most `count` jobs run."""
        while len(self._under_way) > count:
            done, _ = wait(self._under_way, CHECK_INTERVAL_S, FIRST_COMPLETED)
            if self.check is not None:
                self.check()
            if done:
                future = done.pop()
                then = self._under_way.pop(future)
                future.result()
                then()
