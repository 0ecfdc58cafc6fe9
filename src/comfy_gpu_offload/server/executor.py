"""One queue a device: one job at a time, and clients take turns."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic, perf_counter
from typing import Literal, TypeVar

ResultT = TypeVar("ResultT")
JobState = Literal["queued", "running", "unknown"]


class JobCancelledError(Exception):
    """The job was taken out of the queue before it ran."""


class ExecutorClosedError(Exception):
    """The worker is stopping, and takes no more jobs."""


def _held() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock


@dataclass(eq=False)
class _Job:
    client: str
    name: str
    refusal: Exception | None = None
    # Held until the job may run or was refused: of all ways to wake one thread, the quickest.
    turn: threading.Lock = field(default_factory=_held)
    queued_at: float = field(default_factory=perf_counter)


class Executor:
    """Lets one job at a time run, each on the thread that brought it.

    A thread of the executor's own would cost two hand-overs a call, each of them more than a forward call's whole
    frame takes to read (benchmarks/call_overhead.py). Clients with jobs waiting take turns, one job each; a
    client's own jobs keep their order.
    """

    def __init__(self, before_each: Callable[[], None] = lambda: None) -> None:
        """`before_each` is called before each job, at a time when `cancel` cannot interrupt it yet."""
        self._clients: OrderedDict[str, deque[_Job]] = OrderedDict()
        self._before_each = before_each
        self._running: _Job | None = None
        self._closed = False
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)

    def enter(self, client: str, name: str) -> Turn:
        """A place in the queue, which must be run. `name` is for `cancel`."""
        job = _Job(client, name)
        with self._lock:
            if self._closed:
                job.refusal = ExecutorClosedError("The worker is stopping.")
                job.turn.release()
            elif self._running is None:
                self._start(job)
            else:
                self._clients.setdefault(client, deque()).append(job)
        return Turn(self, job)

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
            job.refusal = JobCancelledError("The call was cancelled.")
            job.turn.release()
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
        deadline = None if timeout_s is None else monotonic() + timeout_s
        with self._lock:
            self._closed = True
            for jobs in self._clients.values():
                for job in jobs:
                    job.refusal = ExecutorClosedError("The worker is stopping.")
                    job.turn.release()
            self._clients.clear()
            while self._running is not None:
                left = None if deadline is None else deadline - monotonic()
                if left is not None and left <= 0:
                    return False
                self._idle.wait(left)
        return True

    def _start(self, job: _Job) -> None:
        self._before_each()
        self._running = job
        job.turn.release()

    def _end(self) -> None:
        with self._lock:
            self._running = None
            if self._clients:
                client, jobs = self._clients.popitem(last=False)
                job = jobs.popleft()
                if jobs:
                    self._clients[client] = jobs  # to the end of the row
                self._start(job)
            else:
                self._idle.notify_all()


class Turn:
    """A place in an executor's queue."""

    def __init__(self, executor: Executor, job: _Job) -> None:
        self._executor = executor
        self._job = job

    def run(self, function: Callable[[float], ResultT]) -> ResultT:
        """Waits for the turn, then calls `function` with the seconds that took; once.

        Raises:
            JobCancelledError: cancelled before it ran.
            ExecutorClosedError: the executor was closed before it ran.
            Whatever `function` raises.
        """
        with self._job.turn:
            if self._job.refusal is not None:
                raise self._job.refusal
            try:
                return function(perf_counter() - self._job.queued_at)
            finally:
                self._executor._end()
