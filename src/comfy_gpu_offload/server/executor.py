"""One queue a device: one job at a time, and clients take turns."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from time import monotonic, perf_counter
from typing import Literal, TypeVar

ResultT = TypeVar("ResultT")
JobState = Literal["queued", "running", "unknown"]


class JobCancelledError(Exception):
    """The job was taken out of the queue before it ran."""


class ExecutorClosedError(Exception):
    """The worker is stopping, and takes no more jobs."""


class Executor:
    """Lets one job at a time run, each on the thread that brought it.

    A thread of the executor's own would cost two hand-overs a call, each of them more than a forward call's whole
    frame takes to read (benchmarks/call_overhead.py). Clients with jobs waiting take turns, one job each; a
    client's own jobs keep their order.
    """

    def __init__(self, before_each: Callable[[], None] = lambda: None) -> None:
        """`before_each` is called before each job, at a time when `cancel` cannot interrupt it yet."""
        self._clients: OrderedDict[str, deque[Turn]] = OrderedDict()
        self._before_each = before_each
        self._running: Turn | None = None
        self._closed = False
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)

    def enter(self, client: str, name: str) -> Turn:
        """A place in the queue, which must be run. `name` is for `cancel`."""
        turn = Turn(self, client, name)
        with self._lock:
            if self._closed:
                turn.refuse(ExecutorClosedError("The worker is stopping."))
            elif self._running is None:
                self._start(turn)
            else:
                turn.must_wait()
                self._clients.setdefault(client, deque()).append(turn)
        return turn

    def cancel(self, name: str, interrupt: Callable[[], None]) -> JobState:
        """Takes the job out of the queue if it waits, interrupts it if it runs; says which it was.

        `interrupt` is called while no other job can begin, so it cannot hit one that was not meant.
        """
        with self._lock:
            if self._running is not None and self._running.name == name:
                interrupt()
                return "running"
            turn = self._remove(name)
            if turn is None:
                return "unknown"
            turn.refuse(JobCancelledError("The call was cancelled."))
            return "queued"

    def _remove(self, name: str) -> Turn | None:
        for client, turns in self._clients.items():
            for turn in turns:
                if turn.name == name:
                    turns.remove(turn)
                    if not turns:
                        del self._clients[client]
                    return turn
        return None

    def close(self, timeout_s: float | None = None) -> bool:
        """Refuses what waits, lets the running job finish; False if it has not within `timeout_s`."""
        deadline = None if timeout_s is None else monotonic() + timeout_s
        with self._lock:
            self._closed = True
            for turns in self._clients.values():
                for turn in turns:
                    turn.refuse(ExecutorClosedError("The worker is stopping."))
            self._clients.clear()
            while self._running is not None:
                left = None if deadline is None else deadline - monotonic()
                if left is not None and left <= 0:
                    return False
                self._idle.wait(left)
        return True

    def _start(self, turn: Turn) -> None:
        self._before_each()
        self._running = turn
        turn.begin()

    def _end(self) -> None:
        with self._lock:
            self._running = None
            if self._clients:
                client, turns = self._clients.popitem(last=False)
                turn = turns.popleft()
                if turns:
                    self._clients[client] = turns  # to the end of the row
                self._start(turn)
            else:
                self._idle.notify_all()


class Turn:
    """A place in an executor's queue.

    Attributes:
        client: whose it is.
        name: what it is cancelled by.
    """

    __slots__ = ("_executor", "_queued_at", "_refusal", "_waiting", "client", "name")

    def __init__(self, executor: Executor, client: str, name: str) -> None:
        self.client = client
        self.name = name
        self._executor = executor
        self._refusal: Exception | None = None
        # Held until the job may run or was refused: of all ways to wake one thread, the quickest.
        self._waiting: threading.Lock | None = None
        self._queued_at = perf_counter()

    def must_wait(self) -> None:
        """Others come first: it is to be told when it may `begin`, or of its refusal."""
        self._waiting = threading.Lock()
        self._waiting.acquire()

    def begin(self) -> None:
        """Its turn has come."""
        if self._waiting is not None:
            self._waiting.release()

    def refuse(self, refusal: Exception) -> None:
        """It will not run."""
        self._refusal = refusal
        self.begin()

    def run(self, function: Callable[[float], ResultT]) -> ResultT:
        """Waits for the turn, then calls `function` with the seconds that took; once.

        Raises:
            JobCancelledError: cancelled before it ran.
            ExecutorClosedError: the executor was closed before it ran.
            Whatever `function` raises.
        """
        if self._waiting is not None:
            self._waiting.acquire()
        if self._refusal is not None:
            raise self._refusal
        try:
            return function(perf_counter() - self._queued_at)
        finally:
            self._executor._end()
