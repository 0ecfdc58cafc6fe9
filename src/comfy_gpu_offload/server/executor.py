"""One queue a device: one job at a time, and clients take turns."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import SimpleQueue
from time import perf_counter
from typing import Generic, Literal, TypeVar

ResultT = TypeVar("ResultT")
JobState = Literal["queued", "running", "unknown"]


class JobCancelledError(Exception):
    """The job was taken out of the queue before it ran."""


class ExecutorClosedError(Exception):
    """The worker is stopping, and takes no more jobs."""


@dataclass(eq=False)
class _Job(Generic[ResultT]):
    name: str
    function: Callable[[float], ResultT]
    dropped: Callable[[Exception], ResultT]
    future: Future[ResultT]
    queued_at: float = field(default_factory=perf_counter)

    def drop(self, error: Exception) -> None:
        self.future.set_result(self.dropped(error))


class Executor(Generic[ResultT]):
    """Runs jobs on one thread of its own, since a device's libraries keep state by thread.

    Clients with jobs waiting take turns, one job each; a client's own jobs keep their order.
    """

    def __init__(self, before_each: Callable[[], None] = lambda: None) -> None:
        """`before_each` is called before each job, at a time when `cancel` cannot interrupt it yet."""
        self._clients: OrderedDict[str, deque[_Job[ResultT]]] = OrderedDict()
        self._before_each = before_each
        self._running: _Job[ResultT] | None = None
        self._closed = False
        self._lock = threading.Lock()
        # One entry a job, and one to end: waking a thread by it takes half the time a condition does.
        self._signals: SimpleQueue[None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="comfy-gpu-offload-device", daemon=True)
        self._thread.start()

    def submit(
        self,
        client: str,
        name: str,
        function: Callable[[float], ResultT],
        dropped: Callable[[Exception], ResultT],
        future: Future[ResultT],
    ) -> None:
        """Queues `function`, which is called with the seconds it waited; `future` is for what it returns.

        `name` is for `cancel`.

        `dropped` makes the result of a job that does not run: with `JobCancelledError` if it is cancelled
        before, with `ExecutorClosedError` if the executor is closed before.
        """
        job = _Job(name, function, dropped, future)
        with self._lock:
            if not self._closed:
                self._clients.setdefault(client, deque()).append(job)
                self._signals.put(None)
                return
        job.drop(ExecutorClosedError("The worker is stopping."))

    def cancel(self, name: str, interrupt: Callable[[], None]) -> JobState:
        """Takes the job out of the queue if it waits, interrupts it if it runs; says which it was.

        `interrupt` is called while no other job can begin, so it cannot hit one that was not meant.
        """
        with self._lock:
            if self._running is not None and self._running.name == name:
                interrupt()
                return "running"
            job = self._remove(name)
        if job is None:
            return "unknown"
        job.drop(JobCancelledError("The call was cancelled."))
        return "queued"

    def _remove(self, name: str) -> _Job[ResultT] | None:
        for client, jobs in self._clients.items():
            for job in jobs:
                if job.name == name:
                    jobs.remove(job)
                    if not jobs:
                        del self._clients[client]
                    return job
        return None

    def close(self, timeout_s: float | None = None) -> bool:
        """Drops what waits, lets the running job finish; False if it has not within `timeout_s`."""
        with self._lock:
            self._closed = True
            waiting = [job for jobs in self._clients.values() for job in jobs]
            self._clients.clear()
            self._signals.put(None)
        for job in waiting:
            job.drop(ExecutorClosedError("The worker is stopping."))
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            self._signals.get()
            job = self._next()
            if job is None:
                if self._closed:
                    return
                continue  # it was cancelled
            try:
                result = job.function(perf_counter() - job.queued_at)
            except BaseException as error:  # a job's own, for whoever waits for it
                self._end()
                job.future.set_exception(error)
            else:
                self._end()
                job.future.set_result(result)
                del result
            del job  # a finished job's tensors must not live until the next one comes

    def _next(self) -> _Job[ResultT] | None:
        with self._lock:
            if not self._clients:
                return None
            client, jobs = self._clients.popitem(last=False)
            self._before_each()
            self._running = jobs.popleft()
            if jobs:
                self._clients[client] = jobs  # to the end of the row
            return self._running

    def _end(self) -> None:
        with self._lock:
            self._running = None
