"""A transport within the process, which calls the worker's handler. For tests, benchmarks and scripts."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from time import monotonic
from typing import Protocol

from ..errors import ExchangeTimeoutError, ForkedWorkerError
from ..io.buffers import Buffer
from ..io.frame import EncodedFrame
from .base import CHECK_INTERVAL_S, Carrier, Check, Route, Timeouts


class FrameHandler(Protocol):
    """Anything that answers frames: the worker's handler, or a stand-in for it."""

    def handle(self, buffer: Buffer) -> EncodedFrame:
        """Return the reply to one frame."""

    def stream(self, buffer: Buffer) -> Iterator[EncodedFrame]:
        """Yield the replies to one frame, as they come."""


class LoopbackTransport:
    """Hands frames to a handler in this process, copied once as a socket would."""

    carrier = Carrier("this process")
    carries_cancel = True
    peer = ""  # this process

    def __init__(self, handler: FrameHandler) -> None:
        self._handler = handler
        self._is_elsewhere = False

    def exchange(
        self, route: Route, frame: EncodedFrame, timeouts: Timeouts, check: Check | None = None
    ) -> memoryview:
        """See `Transport`. The route is not needed: the message says what it is."""
        self._refuse_elsewhere()
        call = _Call(self._handler, frame.joined())
        call.start()
        deadline = monotonic() + timeouts.exchange_s
        while not call.has_ended():
            if check is not None:
                check()
            if monotonic() > deadline:
                raise ExchangeTimeoutError(f"no reply within {timeouts.exchange_s:g} s")
        return memoryview(call.reply().joined())

    def stream(
        self, route: Route, frame: EncodedFrame, timeouts: Timeouts, check: Check | None = None
    ) -> Generator[memoryview]:
        """See `Transport`. The check runs with each reply: between them there is nothing to wait on."""
        self._refuse_elsewhere()
        for reply in self._handler.stream(frame.joined()):
            if check is not None:
                check()
            yield memoryview(reply.joined())

    def close(self) -> None:
        """Nothing to close: the handler belongs to whoever made it."""

    def forked(self) -> None:
        """See `Transport`. What is here of the handler is a copy without its threads: it answers nothing."""
        self._is_elsewhere = True

    def _refuse_elsewhere(self) -> None:
        if self._is_elsewhere:
            raise ForkedWorkerError(
                "This session's worker runs within the process that this one was forked from, and cannot be called "
                "from here: make a worker and a session in this process, or use a worker of its own over HTTP."
            )


class _Call(threading.Thread):
    """One call of the handler, waited for to the thread's own end, also by the interpreter's.

    Not a daemon: torch aborts the process where the interpreter ends a thread that computes, or frees tensors.
    """

    def __init__(self, handler: FrameHandler, buffer: Buffer) -> None:
        super().__init__(name="comfy-gpu-offload-loopback", daemon=False)
        self._handler, self._buffer = handler, buffer
        self._reply: EncodedFrame | None = None
        self._error: BaseException | None = None

    def run(self) -> None:
        """See `Thread`."""
        try:
            self._reply = self._handler.handle(self._buffer)
        except BaseException as error:  # for whoever waits for it
            self._error = error

    def has_ended(self) -> bool:
        """Return whether it has ended, after waiting for that as long as between two checks."""
        self.join(CHECK_INTERVAL_S)
        return not self.is_alive()

    def reply(self) -> EncodedFrame:
        """Return the handler's reply, or raise what it raised."""
        if self._reply is None:
            raise self._error or RuntimeError("a call without a reply")
        return self._reply
