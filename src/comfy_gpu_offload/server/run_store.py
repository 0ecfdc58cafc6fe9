"""The sampling runs of a worker: each continues without a listener, and its result is kept for a while."""

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

# Shorter than the idle time-out of any proxy in use (nginx: 60 s), and than the 15 s after which a client gives a
# silent connection up.
HEARTBEAT_S = 5.0
# How often the follower of a waiting run is told what it waits for.
_WAITING_EVERY_S = 2.0
# How often a follower is checked on.
_LOOK_EVERY_S = 1.0
# Between two previews: often enough to look live, seldom enough not to slow the run.
_PREVIEW_EVERY_S = 0.25


@dataclass(frozen=True)
class Step:
    """The progress of a run: `step` of `of` steps are done.

    Attributes:
        preview: the run so far as JPEG bytes, if a preview was made at this step.
        waiting: what the run waits for, while it waits.
    """

    step: int
    of: int
    preview: bytes | None = None
    waiting: Waiting | None = None


class Run:
    """One sampling run: its steps as they are done, then its end. Thread-safe.

    To the queue the run is the caller (`Caller`), whoever follows it at the time.

    The condition's lock guards all state. The run's thread reports under it and wakes the followers, which copy
    what is new under it and send it without it: a slow connection never holds up the run. Whether the run may be
    abandoned is decided under the lock that counts the followers, so nobody can follow a run that is being ended.
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
        """Return the last frame, a result or a fault, once there is one."""
        return self._end

    @property
    def latest(self) -> Step | None:
        """Return the last step that is done, with the newest preview; None before the first one."""
        with self._changed:
            if not self._steps:
                return None
            last = self._steps[-1]
            picture = next((step.preview for step in reversed(self._steps) if step.preview is not None), None)
            return Step(last.step, last.of, picture)

    @property
    def ended_at(self) -> float:
        """Return when the run ended, in seconds of the monotonic clock."""
        return self._ended_at

    def report(self, step: int, of: int, preview: Callable[[], bytes | None]) -> None:
        """Record that a step is done. `preview` is called only when it is time for the next preview."""
        now = monotonic()
        picture = None
        if now - self._preview_at >= _PREVIEW_EVERY_S:
            picture = preview()
            self._preview_at = now
        with self._changed:
            if picture is not None:  # only the newest preview is kept
                self._steps = [Step(done.step, done.of) for done in self._steps]
            self._steps.append(Step(step, of, picture))
            self._changed.notify_all()

    def is_gone(self) -> bool:
        """Return whether the run was given up because nobody followed it; see `Caller`."""
        return self._is_abandoned

    def tell(self, waiting: Waiting) -> bool:
        """Tell the followers what the run waits for; see `Caller`."""
        with self._changed:
            self._waiting = waiting
            self._changed.notify_all()
        return True

    def begins(self) -> None:
        """Record that the run waits no longer."""
        with self._changed:
            self._waiting = None

    @property
    def alone_s(self) -> float:
        """Return for how many seconds nobody has followed the run."""
        with self._changed:
            return 0.0 if self._followers else monotonic() - self._alone_since

    def abandon(self) -> bool:
        """Let nobody follow the run from now on; return False if somebody does, or the run has ended."""
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
        """Record the end of the run, a result or a fault."""
        with self._changed:
            self._end = frame
            self._ended_at = monotonic()
            self._changed.notify_all()

    def wait(self) -> EncodedFrame:
        """Wait for the run's end and return it.

        Raises:
            RefusedError: the run was given up because nobody followed it.
        """
        with self._followed(), self._changed:
            while self._end is None:
                self._changed.wait()
            return self._end

    def follow(self, after: int, is_gone: Callable[[], bool] = lambda: False) -> Iterator[Step | EncodedFrame]:
        """Yield every step after `after` as it is done, the last one again as a sign of life, and then the end.

        Ends early once `is_gone` says that the follower is gone.

        Raises:
            RefusedError: the run was given up because nobody followed it.
        """
        with self._followed():
            yield from self._told(after, is_gone)

    def _told(self, after: int, is_gone: Callable[[], bool]) -> Iterator[Step | EncodedFrame]:
        told = self._waiting
        yield Step(after, self._of, waiting=told)  # at once, so that a proxy in between sees an answer
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
    """Return the refusal for a run that this worker does not have, or no longer has."""
    text = "This worker does not have that run: it was restarted, or is another one, or nobody followed the run."
    return RefusedError(Fault(code=FaultCode.UNKNOWN_RUN, message=text, retryable=True))


class RunStore:
    """The runs by the name of their request. Finished ones are dropped by age and by size. Thread-safe.

    Args:
        kept_s: seconds for which a finished run can be asked for again.
        budget_bytes: size of the results of all finished runs.

    The lock guards the table, so that of two requests for one run only one begins it. A run's own lock is never
    taken under it: `_drop_old` reads `end` and `ended_at`, which are set once.
    """

    def __init__(self, kept_s: float = 1800.0, budget_bytes: int = 512 * 1024**2) -> None:
        self._kept_s = kept_s
        self._budget_bytes = budget_bytes
        self._runs: OrderedDict[str, Run] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, request: str) -> Run | None:
        """Return the run of that name, under way or finished, or None."""
        with self._lock:
            self._drop_old()
            return self._runs.get(request)

    def claim(self, request: str, of: int) -> tuple[Run, bool]:
        """Return the run of that name and whether it is new: then the caller must finish it. `of`: its steps."""
        with self._lock:
            self._drop_old()
            run = self._runs.get(request)
            if run is not None:
                return run, False
            run = self._runs[request] = Run(of)
            return run, True

    def forget(self, request: str, run: Run) -> None:
        """Have this run computed again when it is asked for again."""
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
