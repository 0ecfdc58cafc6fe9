"""Sampling runs: each goes on whether or not somebody listens, and its result is kept until it is old."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic

from ..io.frame import EncodedFrame
from ..protocol.messages import Fault, FaultCode
from .faults import RefusedError
from .waiting import Waiting

# Often enough for the shortest idle timeout of a proxy in use (nginx: 60 s), and for a client to notice a worker
# that hangs: it gives a connection up after 15 s without a byte.
HEARTBEAT_S = 5.0
# How often one who follows a run that waits is told for how long.
_WAITING_EVERY_S = 2.0
# How often one who follows is looked after.
_LOOK_EVERY_S = 1.0
# A picture of the run so far: often enough to look live, seldom enough not to slow the loop.
_PREVIEW_EVERY_S = 0.25


@dataclass(frozen=True)
class Step:
    """So many steps are done; with a picture of the run so far where one was made.

    `waiting`: what the run waits for, while it does.
    """

    step: int
    of: int
    preview: bytes | None = None
    waiting: Waiting | None = None


class Run:
    """One sampling run: its steps as they are done, then its end. Thread-safe.

    To the queue it is the caller, whoever follows it at the time.
    """

    def __init__(self, of: int) -> None:
        self._of = of
        self._steps: list[Step] = []
        self._end: EncodedFrame | None = None
        self._ended_at = 0.0
        self._preview_at = float("-inf")
        self._waiting: Waiting | None = None
        self._followers = 0
        self._alone_since = monotonic()
        self._is_abandoned = False
        self._changed = threading.Condition()

    @property
    def end(self) -> EncodedFrame | None:
        """The last frame, a result or a fault, once there is one."""
        return self._end

    @property
    def latest(self) -> Step | None:
        """The last step that is done, with the newest picture."""
        with self._changed:
            if not self._steps:
                return None
            last = self._steps[-1]
            picture = next((step.preview for step in reversed(self._steps) if step.preview is not None), None)
            return Step(last.step, last.of, picture)

    @property
    def ended_at(self) -> float:
        """When, by the monotonic clock."""
        return self._ended_at

    def report(self, step: int, of: int, preview: Callable[[], bytes | None]) -> None:
        """A step is done. `preview` is called only when it is time for the next picture."""
        now = monotonic()
        picture = None
        if now - self._preview_at >= _PREVIEW_EVERY_S:
            picture = preview()
            self._preview_at = now
        with self._changed:
            if picture is not None:  # only the newest is of use
                self._steps = [Step(done.step, done.of) for done in self._steps]
            self._steps.append(Step(step, of, picture))
            self._changed.notify_all()

    def is_gone(self) -> bool:
        """See `Caller`."""
        return self._is_abandoned

    def tell(self, waiting: Waiting) -> bool:
        """See `Caller`."""
        with self._changed:
            self._waiting = waiting
            self._changed.notify_all()
        return True

    def begins(self) -> None:
        """Note that it waits no longer."""
        with self._changed:
            self._waiting = None

    @property
    def alone_s(self) -> float:
        """For how many seconds nobody has followed it."""
        with self._changed:
            return 0.0 if self._followers else monotonic() - self._alone_since

    def abandon(self) -> bool:
        """Have nobody follow it any more; False where somebody does, or it has ended."""
        with self._changed:
            if self._followers or self._end is not None:
                return False
            self._is_abandoned = True
            return True

    @contextmanager
    def _followed(self) -> Iterator[None]:
        with self._changed:
            if self._is_abandoned:
                raise unknown_run()
            self._followers += 1
        try:
            yield
        finally:
            with self._changed:
                self._followers -= 1
                self._alone_since = monotonic()

    def finish(self, frame: EncodedFrame) -> None:
        """The run has ended with this result or fault."""
        with self._changed:
            self._end = frame
            self._ended_at = monotonic()
            self._changed.notify_all()

    def wait(self) -> EncodedFrame:
        """Return the run's end, waited for.

        Raises:
            RefusedError: it was ended because nobody followed it.
        """
        with self._followed(), self._changed:
            while self._end is None:
                self._changed.wait()
            return self._end

    def follow(self, after: int, is_gone: Callable[[], bool] = lambda: False) -> Iterator[Step | EncodedFrame]:
        """Give every step after `after` as it is done, the last one again from time to time, and then the end.

        Ends early when whoever follows `is_gone`.

        Raises:
            RefusedError: it was ended because nobody followed it.
        """
        with self._followed():
            yield from self._told(after, is_gone)

    def _told(self, after: int, is_gone: Callable[[], bool]) -> Iterator[Step | EncodedFrame]:
        told = self._waiting
        yield Step(after, self._of, waiting=told)  # at once, so that whoever stands in between sees an answer
        position, told_at = 0, monotonic()
        while not is_gone():
            with self._changed:
                self._changed.wait_for(lambda at=position: len(self._steps) > at or self._end, _LOOK_EVERY_S)  # type: ignore[misc]
                new, end, waiting = self._steps[position:], self._end, self._waiting
                position += len(new)
                latest = self._steps[-1] if self._steps else Step(0, self._of)
            yield from (step for step in new if step.step > after)
            if end is not None:
                yield end
                return
            now = monotonic()
            is_news = waiting is not None and not waiting.is_like(told)
            pause_s = HEARTBEAT_S if waiting is None else _WAITING_EVERY_S
            if new:
                told_at = now
            elif is_news or now - told_at >= pause_s:
                yield Step(max(after, latest.step), latest.of, waiting=waiting)
                told, told_at = waiting, now


def unknown_run() -> RefusedError:
    """Return the refusal of a run that this worker does not have, or no longer."""
    text = "This worker does not have that run: it was restarted, or is another one, or nobody followed the run."
    return RefusedError(Fault(code=FaultCode.UNKNOWN_RUN, message=text, retryable=True))


class RunStore:
    """Runs by request. Finished ones leave when they are old, or too many bytes together. Thread-safe.

    Args:
        kept_s: how long a finished run can be asked for again.
        budget_bytes: what the results of finished runs may take.
    """

    def __init__(self, kept_s: float = 1800.0, budget_bytes: int = 512 * 1024**2) -> None:
        self._kept_s = kept_s
        self._budget_bytes = budget_bytes
        self._runs: OrderedDict[str, Run] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, request: str) -> Run | None:
        """The run of that name, under way or finished, or None."""
        with self._lock:
            self._drop_old()
            return self._runs.get(request)

    def claim(self, request: str, of: int) -> tuple[Run, bool]:
        """The run of that name, and whether it is new: then the caller must finish it."""
        with self._lock:
            self._drop_old()
            run = self._runs.get(request)
            if run is not None:
                return run, False
            run = self._runs[request] = Run(of)
            return run, True

    def forget(self, request: str, run: Run) -> None:
        """Asked for again, this run is to be computed again."""
        with self._lock:
            if self._runs.get(request) is run:
                del self._runs[request]

    def _drop_old(self) -> None:
        now, used = monotonic(), 0
        for request, run in reversed(list(self._runs.items())):
            if run.end is None:
                continue
            used += run.end.size_bytes
            if now - run.ended_at > self._kept_s or used > self._budget_bytes:
                del self._runs[request]
