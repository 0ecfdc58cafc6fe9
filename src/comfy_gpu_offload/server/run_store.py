"""Sampling runs: each goes on whether or not somebody listens, and its result is kept until it is old."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import monotonic

from ..io.frame import EncodedFrame

# Often enough for the shortest idle timeout of a proxy in use (nginx: 60 s), and for a client to notice a worker
# that hangs.
HEARTBEAT_S = 10.0
# A picture of the run so far: often enough to look live, seldom enough not to slow the loop.
_PREVIEW_EVERY_S = 0.25


@dataclass(frozen=True)
class Step:
    """So many steps are done; with a picture of the run so far where one was made."""

    step: int
    of: int
    preview: bytes | None = None


class Run:
    """One sampling run: its steps as they are done, then its end. Thread-safe."""

    def __init__(self, of: int) -> None:
        self._of = of
        self._steps: list[Step] = []
        self._end: EncodedFrame | None = None
        self._ended_at = 0.0
        self._preview_at = float("-inf")
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

    def finish(self, frame: EncodedFrame) -> None:
        """The run has ended with this result or fault."""
        with self._changed:
            self._end = frame
            self._ended_at = monotonic()
            self._changed.notify_all()

    def wait(self) -> EncodedFrame:
        """The run's end, waited for."""
        with self._changed:
            while self._end is None:
                self._changed.wait()
            return self._end

    def follow(self, after: int) -> Iterator[Step | EncodedFrame]:
        """Every step after `after` as it is done, the last one again from time to time, and then the end."""
        yield Step(after, self._of)  # at once, so that whoever stands in between sees an answer
        position = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda at=position: len(self._steps) > at or self._end, HEARTBEAT_S)  # type: ignore[misc]
                new, end = self._steps[position:], self._end
                position += len(new)
                latest = self._steps[-1] if self._steps else Step(0, self._of)
            yield from (step for step in new if step.step > after)
            if end is not None:
                yield end
                return
            if not new:
                yield Step(max(after, latest.step), latest.of)


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

    def forget(self, request: str) -> None:
        """Asked for again, this run is to be computed again."""
        with self._lock:
            self._runs.pop(request, None)

    def _drop_old(self) -> None:
        now, used = monotonic(), 0
        for request, run in reversed(list(self._runs.items())):
            if run.end is None:
                continue
            used += run.end.size_bytes
            if now - run.ended_at > self._kept_s or used > self._budget_bytes:
                del self._runs[request]
