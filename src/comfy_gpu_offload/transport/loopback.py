"""A transport within the process: the handler is called directly. For tests, benchmarks and scripts."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from time import monotonic
from typing import Protocol

from ..errors import ExchangeTimeoutError
from ..io.buffers import Buffer
from ..io.frame import EncodedFrame
from .base import CHECK_INTERVAL_S, Check, Route, Timeouts


class FrameHandler(Protocol):
    """What answers frames: the worker's handler, or a stand-in for it."""

    def submit(self, buffer: Buffer) -> Future[EncodedFrame]:
        """The reply to one frame, when it is ready."""

    def stream(self, buffer: Buffer) -> Iterator[EncodedFrame]:
        """The replies to one frame, as they come."""


class LoopbackTransport:
    """Hands frames to a handler in this process, copied once as a socket would."""

    carries_cancel = True

    def __init__(self, handler: FrameHandler) -> None:
        self._handler = handler

    def exchange(
        self, route: Route, frame: EncodedFrame, timeouts: Timeouts, check: Check | None = None
    ) -> memoryview:
        """See `Transport`. The route is not needed: the message says what it is."""
        future = self._handler.submit(frame.joined())
        deadline = monotonic() + timeouts.exchange_s
        while True:
            try:
                return memoryview(future.result(timeout=CHECK_INTERVAL_S).joined())
            except FutureTimeoutError:
                if check is not None:
                    check()
                if monotonic() > deadline:
                    raise ExchangeTimeoutError(f"no reply within {timeouts.exchange_s:g} s") from None

    def stream(
        self, route: Route, frame: EncodedFrame, timeouts: Timeouts, check: Check | None = None
    ) -> Generator[memoryview]:
        """See `Transport`. The check runs with each reply: between them there is nothing to wait on."""
        for reply in self._handler.stream(frame.joined()):
            if check is not None:
                check()
            yield memoryview(reply.joined())

    def close(self) -> None:
        """Nothing to close: the handler belongs to whoever made it."""
