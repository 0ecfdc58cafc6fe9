"""The queue for the device: one job runs at a time, and clients take turns."""

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

# How often a waiting job checks on its caller.
_LOOK_EVERY_S = 0.5


class JobCancelledError(Exception):
    """The job was taken out of the queue before it ran."""


class ExecutorClosedError(Exception):
    """The worker is stopping and takes no more jobs."""


class ExecutorBusyError(Exception):
    """The job cannot wait here, or not any longer. It may be asked for again. The message is for the user."""


class CallerGoneError(Exception):
    """Nobody waits for the job any more."""


@dataclass(frozen=True)
class QueueLimits:
    """Limits of the queue.

    Attributes:
        waiting, waiting_each: the number of jobs that may wait, of all clients and of each.
        untold_s: seconds after which a waiting job is refused as busy if its caller may not have been told why it
            waits. Shorter than the time-out of any proxy in use (nginx: 60 s).
        place_s: seconds for which such a job keeps its place in the queue, to be asked for again.
    """

    waiting: int = 128
    waiting_each: int = 32
    untold_s: float = 40.0
    place_s: float = 30.0


class Executor:
    """The queue of jobs for the device, of which one runs at a time, on the thread that brought it. Thread-safe.

    A thread of the executor's own would hand each call over twice, and each handover takes longer than reading a
    forward call's whole frame (benchmarks/call_overhead.py). Clients with waiting jobs take turns, one job each; a
    client's own jobs keep their order. A job whose caller is gone leaves the queue.

    Locking:
        One lock guards the line, the running turn and `_closed` together, because every decision reads them
        together: whether a job may start at once, who is next, whether a cancelled job waits or runs. It is held
        for a few instructions only, never while a job runs or waits.

        The backend's `interrupt` and `clear_interrupt` are called under it. Otherwise a job could end, and the next
        one begin, between the check that the job to cancel is the running one and the interrupt, which would then
        hit the wrong job. For the same reason `before_each` clears an interrupt that came too late, before the next
        job begins and under the same lock. These two functions must not block or take the lock.

        A caller is asked and told (`is_gone`, `tell`) without the lock, because it may use a socket or take locks
        of its own (the reply cache's, a run's). So no thread waits for another lock while it holds this one. After
        each such call the state is looked at again, since the job's turn may have come meanwhile.
    """

    def __init__(self, before_each: Callable[[], None] = lambda: None, limits: QueueLimits | None = None) -> None:
        """Start with an empty queue.

        Args:
            before_each: called before each job begins, under the lock: `cancel` cannot interrupt the job yet.
        """
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
        """Return a turn in the queue, whose `run` must be called.

        Args:
            client: whose job it is.
            name: by which `cancel` finds the job.
            what: the job in words for users, such as ``loading x.safetensors``.
            caller: whoever waits for the job.
            place: by which a job that was refused as busy finds its place again; None for `name`.
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
        """Take the job out of the queue if it waits, or interrupt it if it runs; return which it was.

        `interrupt` is called under the lock: no other job can begin meanwhile and be interrupted by mistake.
        """
        with self._lock:
            turn = self._running
            if turn is None or turn.name != name:
                turn = self._line.find(name)
            return "unknown" if turn is None else self._ended(turn, interrupt)

    def cancel_turn(self, turn: Turn, interrupt: Callable[[], None]) -> JobState:
        """Cancel the job of this turn, as `cancel` does; another job of its name is left alone."""
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
        """Return what is running, in the words for a job that would come next; None while nothing is."""
        with self._lock:
            return None if self._running is None else self._told(1, self._running)

    def stop_running(self, interrupt: Callable[[], None]) -> None:
        """Interrupt the running job, because the worker stops: its client is told that it may ask elsewhere."""
        with self._lock:
            if self._running is not None:
                self._running.is_stopped = True
                interrupt()

    def has_waiting(self) -> bool:
        """Return whether any job waits."""
        with self._lock:
            return len(self._line) > 0

    def close(self, timeout_s: float | None = None) -> bool:
        """Refuse the waiting jobs and let the running one finish; return False if that takes over `timeout_s`."""
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
        """Tell a waiting turn's caller what it waits for; end the turn if it need not, or cannot, wait on.

        Called on the thread that waits for the turn.
        """
        is_gone = turn.caller.is_gone()
        with self._lock:
            if turn not in self._line or self._running is None:
                return  # its turn has come, or it was cancelled
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
    """A job's turn in an executor's queue.

    Attributes:
        client: whose job it is.
        name: by which the job is cancelled.
        what: the job in words for users.
        place: by which a job that was refused as busy finds its place again.
        caller: whoever waits for the job.
        is_stopped: whether the job was interrupted because the worker stops.
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
        # A lock that is held until the job may run or is refused: the quickest way to wake one thread.
        self._waiting: threading.Lock | None = None
        self._queued_at = perf_counter()

    @property
    def waited_s(self) -> float:
        """Return the seconds since the turn was made."""
        return perf_counter() - self._queued_at

    def must_wait(self) -> None:
        """Make `run` wait for `begin` or `refuse`. Called before any other thread can see the turn."""
        self._waiting = threading.Lock()
        self._waiting.acquire()

    def begin(self) -> None:
        """Let the job run. Called under the executor's lock, once; it never blocks."""
        if self._waiting is not None:
            self._waiting.release()

    def refuse(self, refusal: Exception) -> None:
        """Have `run` raise `refusal`. Called under the executor's lock, in place of `begin`."""
        self._refusal = refusal
        self.begin()

    def run(self, function: Callable[[float], ResultT]) -> ResultT:
        """Wait for the turn, then return what `function` returns, given the seconds of waiting. Call it once.

        Raises:
            JobCancelledError: the job was cancelled before it ran.
            CallerGoneError: nobody waits for the job any more.
            ExecutorBusyError: the job cannot wait, or not any longer.
            ExecutorClosedError: the executor was closed before the job ran, or did not let it finish.
            Whatever `function` raises.
        """
        has_waited = self._waiting is not None
        if self._waiting is not None:
            while not self._waiting.acquire(timeout=_LOOK_EVERY_S):
                self._executor.look_after(self)
        if self._refusal is not None:
            raise self._refusal
        try:
            # Between two checks on the caller its turn may have come: look once more before the device is used.
            if has_waited and self.caller.is_gone():
                raise CallerGoneError("Nobody waits for this call any more.")
            return function(self.waited_s)
        except Exception as error:
            if self.is_stopped:
                raise ExecutorClosedError("The worker was stopped in the middle of the call.") from error
            raise
        finally:
            self._executor._end()
