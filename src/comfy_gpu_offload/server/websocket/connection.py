"""One client's WebSocket: its thread receives, and each exchange is answered on a thread of its own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from time import monotonic

from ...errors import FrameError
from ...io.frame import EncodedFrame, FrameLimits
from ...net.websocket.link import Link, LinkClosedError
from ...net.websocket.pieces import CONNECTION, SMALL_FRAME_BYTES, Kind, Piece, payloads, sealed
from ...protocol.envelope import seal
from ...protocol.messages import Fault, FaultCode
from ..faults import STARTING, UNAUTHORIZED, fault_of
from ..handler import Handler
from ..waiting import Caller
from .exchange import Exchange, Replies
from .exchange_threads import ExchangeThreads
from .limits import WebSocketLimits

logger = logging.getLogger(__name__)

ROUTES = ("hello", "forward", "cancel", "sample")
"""The routes, in the order of their numbers in a BEGIN piece, from 1 on."""
USES = frozenset({"forward", "sample"})
"""The routes whose requests are use of the worker while they arrive and are answered.

Those of others are by what they ask (`Handler`): their frames are small.
"""
MANY_REPLIES = "sample"
"""The route whose requests have any number of replies; others have one."""

_EARLY_ROUTE = bytes([1 + ROUTES.index("hello")])
_WARM_EVERY_S = 0.1
_IDLE_POLL_S = 0.2


class _ViolationError(Exception):
    """The client breaks the protocol: the connection ends with `code`."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


@dataclass(frozen=True)
class ServedWorker:
    """The worker behind a connection, as it is at the moment.

    Attributes:
        handler: returns the handler; None while the backend is being made.
        lets_in: says whether the client's token is still accepted; it may have been revoked since the upgrade.
        is_stopping: says whether the server takes no more requests.
    """

    handler: Callable[[], Handler | None]
    lets_in: Callable[[], bool]
    is_stopping: Callable[[], bool]


class WebSocketConnection:
    """The worker's end of one client's WebSocket."""

    def __init__(self, link: Link, worker: ServedWorker, frames: FrameLimits, limits: WebSocketLimits) -> None:
        """Take over an open WebSocket."""
        self._link = link
        self._worker = worker
        self._frames = frames
        self._limits = limits
        self._threads = ExchangeThreads()
        # Written by the receiving thread, and by an exchange's own thread, which removes it.
        self._open: dict[int, Exchange] = {}
        self._last_number = 0
        self._used_at = monotonic()

    def serve(self, early: Sequence[memoryview] = ()) -> None:
        """Receive and answer until the connection ends. Calls that are being computed then go on without it.

        Args:
            early: frames for `hello` that came with the upgrade: the exchanges from 1 on.
        """
        linger_s = self._limits.linger_s
        try:
            for number, frame in enumerate(early, 1):
                self._begin(Piece(Kind.BEGIN, number, memoryview(_EARLY_ROUTE + frame)))
            self._receive()
            if monotonic() - self._used_at < linger_s:  # the last reply may still be under way
                linger_s = self._limits.progress_s
        except _ViolationError as error:
            logger.warning("ended a WebSocket connection: %s", error)
            self._link.close(error.code, str(error))
        except LinkClosedError as error:
            logger.debug("a WebSocket connection ended: %s", error)
        finally:
            for exchange in list(self._open.values()):
                exchange.is_dropped = True
            self._link.close(1001 if self._worker.is_stopping() else 1000)
            self._threads.close()
            self._link.linger(linger_s)

    def _receive(self) -> None:
        tended_at = 0.0
        while True:
            for piece in self._link.receive(_WARM_EVERY_S if self._open else _IDLE_POLL_S):
                self._take(piece)
            now = monotonic()
            if now - tended_at >= _WARM_EVERY_S:
                tended_at = now
                self._link.tend(warm=bool(self._open))
                if self._is_over(now):
                    return

    def _is_over(self, now: float) -> bool:
        """Return whether the connection is to end because nothing is asked on it, or a request does not come."""
        open_now = list(self._open.values())
        if open_now:
            self._used_at = now
            handler = self._worker.handler()
            if handler is not None and any(each.is_use for each in open_now):
                handler.activity.use()
            if now - self._link.heard_at > self._limits.progress_s:
                raise _ViolationError(1008, "no sign of life came")
        for exchange in open_now:
            if not exchange.is_answered and now - exchange.heard_at > self._limits.progress_s:
                raise _ViolationError(1008, "the rest of a request did not come")
        return not open_now and (self._worker.is_stopping() or now - self._used_at > self._limits.idle_s)

    def _take(self, piece: Piece) -> None:
        if piece.kind is Kind.BEGIN:
            self._begin(piece)
        elif piece.kind is Kind.DATA:
            exchange = self._open.get(piece.exchange)
            if exchange is not None and not exchange.is_dropped:
                self._feed(exchange, piece.payload)
            elif not CONNECTION < piece.exchange <= self._last_number:
                raise _ViolationError(1002, "bytes for an exchange that was not begun")
        elif piece.kind is Kind.DROP:
            dropped = self._open.get(piece.exchange)
            if dropped is not None:
                dropped.is_dropped = True
                if not dropped.is_answered:
                    del self._open[piece.exchange]
        elif piece.kind is not Kind.WARM:
            raise _ViolationError(1002, f"a client sends no {piece.kind.name}")

    def _begin(self, piece: Piece) -> None:
        if piece.exchange <= self._last_number:
            raise _ViolationError(1002, "the number of an exchange was used before")
        self._last_number = piece.exchange
        route = piece.payload[0] if piece.payload else 0
        if not 1 <= route <= len(ROUTES):
            raise _ViolationError(1002, f"there is no route {route}")
        handler = self._worker.handler()
        if not self._worker.lets_in():
            self._refuse(piece.exchange, UNAUTHORIZED)
        elif handler is None:
            self._refuse(piece.exchange, STARTING)
        elif len(self._open) >= self._limits.exchanges:
            self._refuse(piece.exchange, _busy(f"{self._limits.exchanges} requests are under way on a connection."))
        else:
            name = ROUTES[route - 1]
            exchange = Exchange(piece.exchange, _replies(handler, name), self._link, self._frames)
            exchange.has_many_replies = name == MANY_REPLIES
            exchange.is_use = name in USES
            self._open[exchange.number] = exchange
            self._feed(exchange, piece.payload[1:])

    def _feed(self, exchange: Exchange, part: memoryview) -> None:
        if exchange.is_answered:
            raise _ViolationError(1002, "bytes after the end of a request")
        exchange.heard_at = monotonic()
        try:
            frames = exchange.reader.feed(part)
        except FrameError as error:
            self._refuse(exchange.number, fault_of(error))
            return
        exchange.request_bytes = exchange.reader.allocated_bytes + sum(map(len, frames))
        if self._request_bytes() > self._frames.frame_bytes:
            self._refuse(exchange.number, _busy("too many large requests are under way on a connection."))
        elif frames:
            if len(frames) > 1 or not exchange.reader.is_between_frames:
                raise _ViolationError(1002, "bytes after the end of a request")
            self._answer(exchange, frames[0])

    def _answer(self, exchange: Exchange, request: memoryview) -> None:
        exchange.is_answered = True
        try:
            self._threads.run(partial(self._send, exchange, exchange.replies(request, exchange)))
        except RuntimeError:
            self._refuse(exchange.number, _busy("the system has no more threads."))

    def _request_bytes(self) -> int:
        """Return the memory that requests take which are not answered yet."""
        return sum(each.request_bytes for each in list(self._open.values()))

    def _refuse(self, number: int, fault: Fault) -> None:
        """Answer before the request is whole. The rest of it is dropped as it comes."""
        self._open.pop(number, None)
        self._link.post(sealed(Kind.END, number, *seal(fault).buffers))

    def _send(self, exchange: Exchange, replies: Generator[EncodedFrame]) -> None:
        """Send the replies to an exchange, on its own thread."""
        try:
            with closing(replies):
                for frame in replies:
                    self._send_frame(exchange, frame)
                    if exchange.is_dropped:  # whoever is gone no longer follows a run
                        break
            if exchange.has_many_replies:
                self._link.send(sealed(Kind.END, exchange.number), self._patience(exchange), urgent=True)
        except (LinkClosedError, _GoneError) as error:
            logger.debug("a reply could not be sent: %s", type(error).__name__)
            self._link.close(1008, "replies are not read")
        except Exception:
            logger.exception("an exchange's thread failed")
            self._link.close(1011)
        finally:
            self._open.pop(exchange.number, None)

    def _send_frame(self, exchange: Exchange, frame: EncodedFrame) -> None:
        urgent, left = frame.size_bytes <= SMALL_FRAME_BYTES, frame.size_bytes
        for payload in payloads(frame.buffers, self._link.piece_size):
            if exchange.is_dropped:
                return
            left -= sum(map(len, payload))
            kind = Kind.DATA if left or exchange.has_many_replies else Kind.END
            self._link.send(sealed(kind, exchange.number, *payload), self._patience(exchange), urgent=urgent)

    def _patience(self, exchange: Exchange) -> Callable[[], None]:
        """Return what ends the wait for a client that takes no bytes."""
        until = monotonic() + self._limits.progress_s

        def wait() -> None:
            if monotonic() > until:
                raise _GoneError

        return wait


def _replies(handler: Handler, route: str) -> Replies:
    """Return the function from a request of `route` and its sender to the replies."""
    if route == MANY_REPLIES:
        return partial(handler.stream, tells_waiting=True)

    def one_reply(request: memoryview, caller: Caller) -> Generator[EncodedFrame]:
        yield handler.handle(request, caller)

    return one_reply


def _busy(text: str) -> Fault:
    return Fault(code=FaultCode.BUSY, message=f"The worker cannot take this request yet: {text}", retryable=True)


class _GoneError(Exception):
    """The client has taken no bytes for so long that it is gone."""
