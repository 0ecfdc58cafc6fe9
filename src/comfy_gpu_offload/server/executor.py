"""One queue a device: one job at a time, and clients take turns."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic, perf_counter
from typing import Literal, TypeVar

from .fair_queue import WaitingLine
from .waiting import PATIENT, Caller, Waiting

ResultT = TypeVar("ResultT")
JobState = Literal["queued", "running", "unknown"]

# How often a job that waits looks after its caller.
_LOOK_EVERY_S = 0.5


class JobCancelledError(Exception):
    """The job was taken out of the queue before it ran."""


class ExecutorClosedError(Exception):
    """The worker is stopping, and takes no more jobs."""


class ExecutorBusyError(Exception):
    """The job cannot wait here, or not any longer: it may be asked for again. The message is for the user."""


class CallerGoneError(Exception):
    """Nobody waits for the job any more."""


@dataclass(frozen=True)
class QueueLimits:
    """Counts of waiting jobs, and seconds.

    Attributes:
        waiting, waiting_each: at most so many in all, and of one client.
        untold_s: how long a job waits whose caller may not have been told so; below the patience of any proxy in
            use (nginx: 60 s). It keeps its place for `place_s`, to be asked for again.
    """

    waiting: int = 128
    waiting_each: int = 32
    untold_s: float = 40.0
    place_s: float = 30.0


class Executor:
    """Lets one job at a time run, each on the thread that brought it.

    A thread of the executor's own would cost two hand-overs a call, each of them more than a forward call's whole
    frame takes to read (benchmarks/call_overhead.py). Clients with jobs waiting take turns, one job each; a
    client's own jobs keep their order. A job whose caller is gone leaves the queue.
    """

    def __init__(self, before_each: Callable[[], None] = lambda: None, limits: QueueLimits | None = None) -> None:
        """`before_each` is called before each job, at a time when `cancel` cannot interrupt it yet."""
        self.limits = limits or QueueLimits()
        self._line: WaitingLine[Turn] = WaitingLine()
        self._before_each = before_each
        self._running: Turn | None = None
        self._running_since = 0.0
        self._closed = False
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)

    def enter(
        self,
        client: str,
        name: str,
        what: str = "a call",
        caller: Caller = PATIENT,
        *,
        place: str | None = None,
    ) -> Turn:
        """Return a place in the queue, which must be run.

        Args:
            name: for `cancel`.
            what: for people, such as ``loading x.safetensors``.
            caller: whoever waits for it.
            place: by which a job that could not wait finds its place again; None for its name.
        """
        turn = Turn(self, client, name, what, caller)
        turn.place = place or name
        with self._lock:
            if self._closed:
                turn.refuse(ExecutorClosedError("The worker is stopping."))
            elif self._running is None:
                self._line.remove(client, turn.place)
                self._start(turn)
            elif refusal := self._no_room_for(turn):
                turn.refuse(refusal)
            else:
                turn.must_wait()
                self._line.add(turn)
        return turn

    def _no_room_for(self, turn: Turn) -> ExecutorBusyError | None:
        if self._line.has_place(turn.client, turn.place):
            return None
        if self._line.count(turn.client) >= self.limits.waiting_each:
            return ExecutorBusyError(
                f"This client has {self.limits.waiting_each} calls waiting at the worker already."
            )
        if len(self._line) >= self.limits.waiting:
            return ExecutorBusyError(f"The worker is busy: {self.limits.waiting} calls wait there already.")
        return None

    def cancel(self, name: str, interrupt: Callable[[], None]) -> JobState:
        """Take the job out of the queue if it waits, interrupt it if it runs; return which it was.

        `interrupt` is called while no other job can begin, so it cannot hit one that was not meant.
        """
        with self._lock:
            turn = self._running
            if turn is None or turn.name != name:
                turn = self._line.find(name)
            return "unknown" if turn is None else self._ended(turn, interrupt)

    def cancel_turn(self, turn: Turn, interrupt: Callable[[], None]) -> JobState:
        """Do as `cancel`, for that very turn."""
        with self._lock:
            return self._ended(turn, interrupt)

    def _ended(self, turn: Turn, interrupt: Callable[[], None]) -> JobState:
        if self._running is turn:
            interrupt()
            return "running"
        if not self._line.discard(turn):
            return "unknown"
        turn.refuse(JobCancelledError("The call was cancelled."))
        return "queued"

    def running(self) -> Waiting | None:
        """Return what runs now, as one who came next would be told."""
        with self._lock:
            return None if self._running is None else self._told(1, self._running)

    def stop_running(self, interrupt: Callable[[], None]) -> None:
        """Interrupt the running job, whichever it is, as one that a worker which stops does not finish."""
        with self._lock:
            if self._running is not None:
                self._running.is_stopped = True
                interrupt()

    def has_waiting(self) -> bool:
        """Return whether any job waits."""
        with self._lock:
            return len(self._line) > 0

    def close(self, timeout_s: float | None = None) -> bool:
        """Refuse what waits, let the running job finish; False if it has not within `timeout_s`."""
        deadline = None if timeout_s is None else monotonic() + timeout_s
        with self._lock:
            self._closed = True
            for turn in self._line.take_all():
                turn.refuse(ExecutorClosedError("The worker is stopping."))
            while self._running is not None:
                left = None if deadline is None else deadline - monotonic()
                if left is not None and left <= 0:
                    return False
                self._idle.wait(left)
        return True

    def look_after(self, turn: Turn) -> None:
        """Tell a turn's caller what it waits for; take one out of the queue that need not, or cannot, wait on."""
        is_gone = turn.caller.is_gone()
        with self._lock:
            if turn not in self._line or self._running is None:
                return  # its turn has come meanwhile
            if is_gone:
                self._line.discard(turn)
                turn.refuse(CallerGoneError("Nobody waits for this call any more."))
                return
            waiting = self._told(1 + self._line.ahead_of(turn), self._running)
        if turn.caller.tell(waiting) or turn.waited_s < self.limits.untold_s:
            return
        with self._lock:
            if turn in self._line:
                self._line.leave(turn, self.limits.place_s)
                turn.refuse(ExecutorBusyError(f"The call is {waiting}."))

    def _told(self, ahead: int, running: Turn) -> Waiting:
        return Waiting(ahead, running.what, monotonic() - self._running_since)

    def _start(self, turn: Turn) -> None:
        self._before_each()
        self._running = turn
        self._running_since = monotonic()
        turn.begin()

    def _end(self) -> None:
        with self._lock:
            self._running = None
            following = self._line.next()
            if following is not None:
                self._start(following)
            else:
                self._idle.notify_all()


class Turn:
    """A place in an executor's queue.

    Attributes:
        client: whose it is.
        name: what it is cancelled by.
        what: it is, for people.
        place: by which its place is found again.
        caller: whoever waits for it.
        is_stopped: whether the worker stops and does not finish it.
    """

    __slots__ = (
        "_executor",
        "_queued_at",
        "_refusal",
        "_waiting",
        "caller",
        "client",
        "is_stopped",
        "name",
        "place",
        "what",
    )

    def __init__(self, executor: Executor, client: str, name: str, what: str, caller: Caller) -> None:
        self.client = client
        self.name = name
        self.what = what
        self.caller = caller
        self.is_stopped = False
        self.place = name
        self._executor = executor
        self._refusal: Exception | None = None
        # Held until the job may run or was refused: of all ways to wake one thread, the quickest.
        self._waiting: threading.Lock | None = None
        self._queued_at = perf_counter()

    @property
    def waited_s(self) -> float:
        """Seconds since it was made."""
        return perf_counter() - self._queued_at

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
        """Wait for the turn, then call `function` with the seconds that took; once.

        Raises:
            JobCancelledError: cancelled before it ran.
            CallerGoneError: nobody waited for it any more.
            ExecutorBusyError: it cannot wait, or not any longer.
            ExecutorClosedError: the executor was closed before it ran, or did not let it finish.
            Whatever `function` raises.
        """
        has_waited = self._waiting is not None
        if self._waiting is not None:
            while not self._waiting.acquire(timeout=_LOOK_EVERY_S):
                self._executor.look_after(self)
        if self._refusal is not None:
            raise self._refusal
        try:
            # A caller that went while its job waited is noticed before the device is taken.
            if has_waited and self.caller.is_gone():
                raise CallerGoneError("Nobody waits for this call any more.")
            return function(self.waited_s)
        except Exception as error:
            if self.is_stopped:
                raise ExecutorClosedError("The worker was stopped in the middle of the call.") from error
            raise
        finally:
            self._executor._end()
