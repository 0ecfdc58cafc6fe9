"""The end of sampling runs that nobody follows: their client is gone, and others may wait for the device."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from time import sleep

from .executor import Executor, Turn
from .run_store import Run

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.5


@dataclass(frozen=True)
class Grace:
    """Seconds for which a run continues without a follower, so that a client can come back after a lost connection.

    Attributes:
        alone_s: while no other call waits for the device; as long as a client keeps trying.
        others_wait_s: while other calls wait.
    """

    alone_s: float = 120.0
    others_wait_s: float = 15.0


class AbandonedRuns:
    """The watch over runs under way, on one thread while there are any; abandoned ones are ended. Thread-safe.

    Args:
        interrupt: ends the running call of the backend.

    The lock guards the table of runs and `_is_looking` together: a run that is added while the thread decides to
    end must start another one. It is not held while a run is ended, which takes the run's, the store's and the
    executor's locks one after the other.
    """

    def __init__(self, executor: Executor, interrupt: Callable[[], None], grace: Grace) -> None:
        self._executor = executor
        self._interrupt = interrupt
        self._grace = grace
        self._runs: dict[Run, tuple[Turn, Callable[[], None]]] = {}
        self._is_looking = False
        self._lock = threading.Lock()

    def watch(self, run: Run, turn: Turn, forget: Callable[[], None]) -> None:
        """Watch a run until it ends. `forget` is called before an abandoned run is ended."""
        with self._lock:
            self._runs[run] = turn, forget
            if self._is_looking:
                return
            try:
                threading.Thread(target=self._look, name="comfy-gpu-offload-abandoned", daemon=True).start()
            except RuntimeError:  # no thread can be started now; the next run tries again
                logger.warning("run %s is not watched, since no thread can be started", turn.name)
            else:
                self._is_looking = True

    def _look(self) -> None:
        while True:
            sleep(_LOOK_EVERY_S)
            with self._lock:
                self._runs = {run: ends for run, ends in self._runs.items() if run.end is None}
                runs = list(self._runs.items())
                if not runs:
                    self._is_looking = False
                    return
            for run, (turn, forget) in runs:
                if self._is_over(run) and run.abandon():
                    forget()
                    state = self._executor.cancel_turn(turn, self._interrupt)
                    logger.info("run %s is ended because nobody follows it any more; it was %s", turn.name, state)

    def _is_over(self, run: Run) -> bool:
        alone_s = run.alone_s
        if alone_s < self._grace.others_wait_s:
            return False
        return alone_s >= self._grace.alone_s or self._executor.has_waiting()
