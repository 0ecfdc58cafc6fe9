"""One queue a device: one job at a time, and clients take turns."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Literal

JobState = Literal["queued", "running", "unknown"]


class JobCancelledError(Exception):
    """The job was taken out of the queue before it ran."""


class ExecutorClosedError(Exception):
    """The worker is stopping, and takes no more jobs."""


@dataclass(eq=False)
class _Job:
    name: str
    function: Callable[[float], Any]
    future: Future[Any] = field(default_factory=Future)
    queued_at: float = field(default_factory=perf_counter)


class Executor:
    """Runs jobs on one thread of its own, since a device's libraries keep state by thread.

    Clients with jobs waiting take turns, one job each; a client's own jobs keep their order.
    """

    def __init__(self, before_each: Callable[[], None] = lambda: None) -> None:
        """`before_each` is called before each job, at a time when `cancel` cannot interrupt it yet."""
        self._clients: OrderedDict[str, deque[_Job]] = OrderedDict()
        self._before_each = before_each
        self._running: _Job | None = None
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="comfy-gpu-offload-device", daemon=True)
        self._thread.start()

    def submit(self, client: str, name: str, function: Callable[[float], Any]) -> Future[Any]:
        """Queues `function`, which is called with the seconds it waited. `name` is for `cancel`.

        The future fails with `JobCancelledError` if the job is cancelled before it runs, and with
        `ExecutorClosedError` if the executor is closed before that.
        """
        job = _Job(name, function)
        with self._changed:
            if self._closed:
                job.future.set_exception(ExecutorClosedError("The worker is stopping."))
                return job.future
            self._clients.setdefault(client, deque()).append(job)
            self._changed.notify()
        return job.future

    def cancel(self, name: str, interrupt: Callable[[], None]) -> JobState:
        """Takes the job out of the queue if it waits, interrupts it if it runs; says which it was.

        `interrupt` is called while no other job can begin, so it cannot hit one that was not meant.
        """
        with self._changed:
            if self._running is not None and self._running.name == name:
                interrupt()
                return "running"
            job = self._remove(name)
        if job is None:
            return "unknown"
        job.future.set_exception(JobCancelledError("The call was cancelled."))
        return "queued"

    def _remove(self, name: str) -> _Job | None:
        for client, jobs in self._clients.items():
            for job in jobs:
                if job.name == name:
                    jobs.remove(job)
                    if not jobs:
                        del self._clients[client]
                    return job
        return None

    def close(self, timeout_s: float | None = None) -> bool:
        """Refuses what waits, lets the running job finish; False if it has not within `timeout_s`."""
        with self._changed:
            self._closed = True
            waiting = [job for jobs in self._clients.values() for job in jobs]
            self._clients.clear()
            self._changed.notify()
        for job in waiting:
            job.future.set_exception(ExecutorClosedError("The worker is stopping."))
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (job := self._next()) is not None:
            try:
                result = job.function(perf_counter() - job.queued_at)
            except BaseException as error:  # whatever a model raises belongs to its caller
                self._end()
                job.future.set_exception(error)
            else:
                self._end()
                job.future.set_result(result)
            job = None  # so that a finished job's tensors do not outlive it here

    def _next(self) -> _Job | None:
        with self._changed:
            while not self._clients and not self._closed:
                self._changed.wait()
            if not self._clients:
                return None
            client, jobs = self._clients.popitem(last=False)
            self._before_each()
            self._running = jobs.popleft()
            if jobs:
                self._clients[client] = jobs  # to the end of the row
            return self._running

    def _end(self) -> None:
        with self._changed:
            self._running = None
