"""SIGTERM and Ctrl-C at a worker: stop after the running call, end it, or leave at once."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys

from .http.routes import WorkerState

logger = logging.getLogger(__name__)

# The exit status by which a shell knows a process that SIGINT ended.
_INTERRUPTED = 130


class Signals:
    """The handler of a worker's signals.

    SIGTERM stops the worker after the running call, and so does the first Ctrl-C. The second Ctrl-C ends the call,
    and the third one the process.

    Args:
        stopping: set when the worker is to stop.
    """

    def __init__(self, state: WorkerState, stopping: asyncio.Event) -> None:
        self._state = state
        self._stopping = stopping
        self._interrupts = 0

    def listen(self) -> None:
        """Handle the signals from now on, in the running event loop."""
        loop = asyncio.get_running_loop()
        for number, act in ((signal.SIGTERM, self._stopping.set), (signal.SIGINT, self.interrupted)):
            try:
                loop.add_signal_handler(number, act)
            except NotImplementedError:  # Windows
                signal.signal(number, lambda *_, act=act: loop.call_soon_threadsafe(act))

    def interrupted(self) -> None:
        """Do what this Ctrl-C asks for: the first, the second or the third."""
        self._interrupts += 1
        handler = self._state.handler
        running = None if handler is None else handler.running()
        if self._interrupts >= 3:
            _leave_at_once()
        if self._interrupts == 2 and handler is not None and running is not None:
            logger.warning(
                "%s is ended at the model's next block; press Ctrl-C again to stop at once", running.running
            )
            handler.stop_running()
        elif running is not None:
            logger.warning(
                "stopping after %s, which has run for %.0f s; press Ctrl-C again to end it at the model's next "
                "block, and a third time to stop at once",
                running.running,
                running.running_s,
            )
        else:
            logger.warning("stopping")
        self._stopping.set()


def _leave_at_once() -> None:
    logger.warning("stopped at once")
    logging.shutdown()
    sys.stdout.flush()
    os._exit(_INTERRUPTED)
