"""The client's end of one WebSocket: a thread receives, and each exchange's caller sends and waits for itself."""

from __future__ import annotations

import logging
import threading
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from math import inf
from queue import SimpleQueue
from time import monotonic
from typing import Final

from ..errors import ConnectionLostError, FrameError, TransportError
from ..io.frame import EncodedFrame, FrameLimits
from ..io.frame_reader import FrameReader
from ..net.websocket.link import Link, LinkClosedError, Wait
from ..net.websocket.payloads import Buffer
from ..net.websocket.pieces import CONNECTION, SMALL_FRAME_BYTES, Kind, Message, Piece, payloads, sealed
from .base import CHECK_INTERVAL_S, Route

logger = logging.getLogger(__name__)

ROUTE_NUMBERS: Final[dict[Route, int]] = {"hello": 1, "forward": 2, "cancel": 3, "sample": 4}
# A proxy may have dropped a connection that was idle for longer, without closing it; opening a new one is cheaper
# than finding out. nginx closes it after 60 s.
_IDLE_S = 50.0
_LINGER_S = 5.0
# Events that a caller has not taken yet; the bytes of their replies have a limit of their own.
_MAX_UNTAKEN = 1024
_MAX_TEXT = 256


@dataclass(frozen=True)
class Said:
    """A line that says what an exchange waits for."""

    text: str


Event = memoryview | Said | TransportError | None
"""A reply's frame, a line for the user, the error that ended the connection; None once all replies were sent."""


@dataclass(eq=False)
class OpenExchange:
    """An exchange that waits for its replies.

    Attributes:
        number: its own on the connection, from its first piece on.
        put_bytes, taken_bytes: of replies: that came, and that the caller has taken.
    """

    reader: FrameReader
    number: int = CONNECTION
    events: SimpleQueue[Event] = field(default_factory=SimpleQueue)
    put_bytes: int = 0
    taken_bytes: int = 0


class WebSocketConnection:
    """One WebSocket to a worker, which any number of threads use at a time.

    Attributes:
        was_heard: whether anything came since the upgrade.
        early: the exchanges whose requests went with the upgrade, in that order.
    """

    def __init__(
        self,
        url: str,
        link: Link,
        limits: FrameLimits,
        lasts_s: float = inf,
        *,
        early: int = 0,
        are_taken: bool = True,
    ) -> None:
        """Take over an open WebSocket.

        Args:
            lasts_s: seconds after which it takes no more exchanges.
            early: number of the requests that went with the upgrade.
            are_taken: whether the worker has said that it took them. Their numbers are used for no others anyway.
        """
        self.was_heard = False
        self._url = url
        self._link = link
        self._limits = limits
        self._lock = threading.Lock()
        self.early = [OpenExchange(FrameReader(limits), CONNECTION + 1 + at) for at in range(early)]
        self._last_number = CONNECTION + early
        self._open = {exchange.number: exchange for exchange in self.early if are_taken}
        self._unsent: set[OpenExchange] = set()  # that have no number yet
        self._used_at = monotonic()
        self._lasts_until = self._used_at + lasts_s
        self._lost: TransportError | None = None
        self._is_closing = False
        threading.Thread(target=self._run, name="comfy-gpu-offload-websocket", daemon=True).start()

    @property
    def heard_at(self) -> float:
        """Return when something came last, by `monotonic`."""
        return self._link.heard_at

    @property
    def is_open(self) -> bool:
        """True while the connection takes exchanges."""
        return self._lost is None and not self._is_closing and monotonic() < self._lasts_until

    def begin(self, route: Route) -> OpenExchange | None:
        """Return a new exchange, or None if the connection takes no more of them.

        An exchange may have been given up because the connection hangs. Until the other side has given a sign of
        life since, it carries nothing but cancels.
        """
        with self._lock:
            if self._link.unanswered_pings and route != "cancel":
                self._is_closing = True
            if not self.is_open:
                return None
            exchange = OpenExchange(FrameReader(self._limits))
            self._unsent.add(exchange)
        return exchange

    def send(self, exchange: OpenExchange, route: Route, frame: EncodedFrame, wait: Wait) -> None:
        """Send the request of `exchange`. `wait` is called ten times a second; what it raises ends it.

        Raises:
            ConnectionLostError: the connection has ended.
        """
        urgent = frame.size_bytes <= SMALL_FRAME_BYTES
        try:
            for payload in payloads(frame.buffers, self._link.piece_size, first=bytes([ROUTE_NUMBERS[route]])):
                if not exchange.number:
                    # Numbers go up in the order in which exchanges begin, and urgent ones overtake others here.
                    self._link.send(partial(self._first_piece, exchange, payload), wait, urgent=urgent)
                elif exchange.number in self._open:
                    self._link.send(sealed(Kind.DATA, exchange.number, *payload), wait, urgent=urgent)
                else:
                    return  # it was answered before it was whole
        except LinkClosedError as error:
            self._fail(error)
            raise self._loss() from error

    def _first_piece(self, exchange: OpenExchange, payload: list[Buffer]) -> Message:
        with self._lock:
            if self._lost is not None:
                raise LinkClosedError(1006, "")
            self._last_number += 1
            exchange.number = self._last_number
            self._open[exchange.number] = exchange
            self._unsent.discard(exchange)
        return sealed(Kind.BEGIN, exchange.number, *payload)

    def end(self, exchange: OpenExchange, *, is_answered: bool) -> None:
        """Forget `exchange`; unless it has been answered, tell the worker that nobody wants its replies."""
        if self._lost is not None:  # if it was left to another process, the lock may be held for ever
            return
        with self._lock:
            self._unsent.discard(exchange)
            was_open = self._open.pop(exchange.number, None) is not None
        if not was_open or is_answered:
            return
        try:
            self._link.post(sealed(Kind.DROP, exchange.number))
            self._link.ping()
        except LinkClosedError as error:
            self._fail(error)

    def close(self) -> None:
        """End the connection once no exchange uses it."""
        with self._lock:
            self._is_closing = True
            is_idle = not self._is_used()
        if is_idle:
            self._link.close()

    def give_up(self, error: TransportError) -> None:
        """End the connection with `error` for all its exchanges: it leads nowhere."""
        self._end_with(error)

    def abandon(self) -> None:
        """Leave the connection to the process that this one was forked from."""
        self._lost = ConnectionLostError("The connection belongs to another process.")
        self._link.abandon()

    def _run(self) -> None:
        try:
            self._receive()
        except LinkClosedError as error:
            self._fail(error)
        except Exception:
            logger.exception("the thread of a connection failed")
            self._end_with(ConnectionLostError(f"The connection to {self._url} broke off."))
        finally:
            self._link.close()
            self._link.linger(_LINGER_S)

    def _receive(self) -> None:
        tended_at = 0.0
        while True:
            pieces = self._link.receive(CHECK_INTERVAL_S)
            now = monotonic()
            self.was_heard = self.was_heard or bool(pieces)
            for piece in pieces:
                self._take(piece)
            if now - tended_at >= CHECK_INTERVAL_S:
                tended_at = now
                self._link.tend(warm=self._is_used())
                if self._is_over(now):
                    return

    def _is_used(self) -> bool:
        return bool(self._open or self._unsent)

    def _is_over(self, now: float) -> bool:
        with self._lock:
            if self._is_used():
                self._used_at = now
                return False
            if now - self._used_at > _IDLE_S or now > self._lasts_until:
                self._is_closing = True
            return self._is_closing

    def _take(self, piece: Piece) -> None:
        exchange = self._open.get(piece.exchange)
        if exchange is None:
            return  # dropped, or a sign of life
        if piece.kind is Kind.DATA:
            self._feed(exchange, piece.payload)
        elif piece.kind is Kind.END:
            self._open.pop(piece.exchange, None)
            self._feed(exchange, piece.payload)
            exchange.events.put(None if exchange.reader.is_between_frames else self._truncated())
        elif piece.kind is Kind.WAITING:
            text = bytes(piece.payload).decode("utf-8", "replace")[:_MAX_TEXT]
            if text.isprintable() and exchange.events.qsize() <= _MAX_UNTAKEN:
                exchange.events.put(Said(text))

    def _feed(self, exchange: OpenExchange, part: memoryview) -> None:
        try:
            frames = exchange.reader.feed(part)
        except FrameError as error:
            self._end_with(ConnectionLostError(f"{self._url} sent something that is no frame ({error})"))
            return
        for frame in frames:
            exchange.put_bytes += len(frame)
            exchange.events.put(frame)
        untaken = exchange.put_bytes - exchange.taken_bytes
        # One reply may be as large as any frame, and what came before it may be untaken as well.
        if exchange.events.qsize() > _MAX_UNTAKEN or untaken > 2 * self._limits.frame_bytes:
            self._end_with(ConnectionLostError(f"{self._url} sent more replies than are taken."))

    def _truncated(self) -> ConnectionLostError:
        return ConnectionLostError(f"A reply of {self._url} ended in the middle of a frame.")

    def _fail(self, error: LinkClosedError) -> None:
        self._end_with(ConnectionLostError(f"The connection to {self._url} broke off: {error}."))

    def _end_with(self, error: TransportError) -> None:
        with self._lock:
            self._lost = self._lost or error
            waiting, self._open = list(self._open.values()), {}
        for exchange in waiting:
            exchange.events.put(self._loss())
        self._link.close()

    def _loss(self) -> TransportError:
        """Return an error for one caller: several raise theirs, and a traceback keeps what is under way alive."""
        return copy(self._lost) or ConnectionLostError(f"The connection to {self._url} broke off.")
