"""Frames over a WebSocket: one warm connection for all exchanges, which every proxy passes.

docs/protocol.md, "WebSocket", is the specification.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Generator, Sequence
from contextlib import closing, nullcontext
from queue import Empty
from time import monotonic
from typing import NamedTuple

from pydantic import SecretStr

from ..config.address import Address
from ..errors import ConnectionLostError, ExchangeTimeoutError, SilentConnectionError
from ..io.frame import DEFAULT_LIMITS, EncodedFrame, FrameLimits
from ..net.interruptible import interruptibly
from ..net.sockets import limit_unsent, notice_loss, prefer_bbr
from ..net.websocket.handshake import EARLY_HEADER, Upgrade, UpgradeRefusedError, early_text, upgraded
from ..net.websocket.link import Link
from ..net.websocket.pieces import PATH
from ..version import __version__
from . import startup_time
from .base import CHECK_INTERVAL_S, Carrier, Check, Notify, Route, Timeouts
from .connector import Connector
from .early_requests import EarlyRequest, EarlyRequests
from .intermediary import Intermediary
from .silence_watch import silent
from .websocket_connection import OpenExchange, Said, WebSocketConnection

logger = logging.getLogger(__name__)


class WebSocketTransport:
    """Carries frames to the worker at `address` over one WebSocket, which is opened when it is needed.

    Raises from `exchange` and `stream`, besides what `Transport` says:
        UpgradeRefusedError: the answer to the upgrade opened no WebSocket.
    """

    carries_cancel = True

    def __init__(
        self,
        address: Address,
        connector: Connector,
        token: SecretStr | None = None,
        *,
        max_frame_bytes: int = DEFAULT_LIMITS.frame_bytes,
        intermediary: Intermediary | None = None,
        notify: Notify | None = None,
    ) -> None:
        """Make a transport that connects when it is first used.

        Args:
            intermediary: stands in between, with limits and headers of its own.
            notify: called with what a call waits for at the worker; by default that is logged.
        """
        self.url = self.peer = str(address)
        self._address = address
        self._connector = connector
        self._token = token
        self._limits = FrameLimits(frame_bytes=max_frame_bytes)
        self._intermediary = intermediary or Intermediary()
        self._notify: Notify = notify or _log
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._opening = threading.Lock()
        self._early = EarlyRequests()
        self._connection: WebSocketConnection | None = None
        self._opened_in_s: float | None = None
        self.was_heard = False
        """Whether anything ever came over a WebSocket."""

    def exchange(
        self, route: Route, frame: EncodedFrame, timeouts: Timeouts, check: Check | None = None
    ) -> memoryview:
        """See `Transport`."""
        with closing(self._replies(route, frame, timeouts, check)) as replies:
            reply = next(replies, None)
            if reply is None or next(replies, None) is not None:
                count = "no reply" if reply is None else "several replies"
                raise ConnectionLostError(f"{self.url} ended an exchange with {count} in place of one.")
        return reply

    def stream(
        self, route: Route, frame: EncodedFrame, timeouts: Timeouts, check: Check | None = None
    ) -> Generator[memoryview]:
        """See `Transport`."""
        return self._replies(route, frame, timeouts, check)

    @property
    def carrier(self) -> Carrier:
        """See `Transport`."""
        return Carrier("WebSocket", is_shared=True, opened_in_s=self._opened_in_s)

    @property
    def is_open(self) -> bool:
        """True while there is a connection that the next exchange may use."""
        connection = self._connection
        return connection is not None and connection.is_open

    def close(self) -> None:
        """See `Transport`."""
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def forked(self) -> None:
        """See `Transport`."""
        inherited = self._connection
        self._begin()
        if inherited is not None:
            inherited.abandon()

    def _replies(
        self, route: Route, frame: EncodedFrame, timeouts: Timeouts, check: Check | None
    ) -> Generator[memoryview]:
        connection, exchange = self._begun(route, frame, timeouts, check)
        patience = _Patience(self.url, connection, timeouts, check)
        is_answered = False
        try:
            if not exchange.number:  # else it went with the upgrade
                connection.send(exchange, route, frame, patience.wait)
            while (reply := self._next(exchange, patience)) is not None:
                yield reply
                patience.begin_anew()
            is_answered = True
        except SilentConnectionError as error:
            connection.give_up(error)
            raise
        finally:
            self.was_heard = self.was_heard or connection.was_heard
            connection.end(exchange, is_answered=is_answered)

    def _next(self, exchange: OpenExchange, patience: _Patience) -> memoryview | None:
        """Return the next reply's frame; None once there are no more."""
        while True:
            try:
                event = exchange.events.get(timeout=CHECK_INTERVAL_S)
            except Empty:
                patience.wait()
                continue
            if isinstance(event, Said):
                patience.wait()
                patience.begin_anew()  # time in which others' calls run is none that this one takes
                self._notify(event.text)
            elif isinstance(event, Exception):
                raise event
            else:
                exchange.taken_bytes += 0 if event is None else len(event)
                return event

    def _begun(
        self, route: Route, frame: EncodedFrame, timeouts: Timeouts, check: Check | None
    ) -> tuple[WebSocketConnection, OpenExchange]:
        while True:
            connection = self._connection
            exchange = None
            if connection is None:
                with self._early.waiting(route, frame) as request:
                    connection = self._opened(timeouts, check)
                exchange = request.exchange
            exchange = exchange or connection.begin(route)
            if exchange is not None:
                return connection, exchange
            with self._lock:
                if self._connection is connection:
                    self._connection = None

    def _opened(self, timeouts: Timeouts, check: Check | None) -> WebSocketConnection:
        """Return the connection, opened by whichever thread comes first; the others wait for it."""
        while not self._opening.acquire(timeout=CHECK_INTERVAL_S):
            if check is not None:
                check()
        try:
            with self._lock:
                connection = self._connection
            if connection is None:
                connection = self._connect(timeouts, check)
                with self._lock:
                    self._connection = connection
            return connection
        finally:
            self._opening.release()

    def _connect(self, timeouts: Timeouts, check: Check | None) -> WebSocketConnection:
        with startup_time.counted() if self._intermediary.starts_workers else nullcontext():
            link, early, are_taken = interruptibly(
                lambda: self._dialled(timeouts), check or _nothing, lambda late: late.link.abandon()
            )
        lasts_s = self._intermediary.connection_s
        connection = WebSocketConnection(
            self.url, link, self._limits, lasts_s, early=len(early), are_taken=are_taken
        )
        if are_taken:
            self._early.taken(early, connection)
        return connection

    def _dialled(self, timeouts: Timeouts) -> _Dialled:
        sock = self._connector.connect(timeouts.connect_s)
        within_s = max(self._intermediary.open_s, timeouts.silence_s)
        try:
            prefer_bbr(sock)
            notice_loss(sock)
            limit_unsent(sock)
            early = self._early.for_upgrade()
            upgrade = self._upgrade(early)
            sent_at = monotonic()
            link = Link(sock, upgraded(sock, upgrade, within_s))
            self._opened_in_s = monotonic() - sent_at
            self._intermediary.replied(upgrade.headers)
            return _Dialled(link, early, upgrade.early_taken == len(early))
        except BaseException as error:
            sock.close()
            if isinstance(error, TimeoutError):
                raise silent(self.url, within_s, within_s) from error
            if isinstance(error, UpgradeRefusedError) and not error.status:
                raise ConnectionLostError(f"{self.url} did not answer an upgrade by HTTP: {error}") from error
            if isinstance(error, OSError):
                text = f"The connection to {self.url} broke off ({type(error).__name__})."
                raise ConnectionLostError(text) from error
            raise

    def _upgrade(self, early: Sequence[EarlyRequest]) -> Upgrade:
        headers = {"User-Agent": f"comfy-gpu-offload/{__version__}", **self._intermediary.request_headers()}
        if early:
            frames = b"".join(bytes(each.frame.joined()) for each in early if each.frame is not None)
            headers[EARLY_HEADER] = early_text(frames)
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token.get_secret_value()}"
        return Upgrade(self._address.authority, f"{self._address.path}{PATH}", headers.items())


class _Dialled(NamedTuple):
    """An open connection, the requests that went with its upgrade, and whether the worker has taken them."""

    link: Link
    early: Sequence[EarlyRequest]
    are_taken: bool


class _Patience:
    """The end of one exchange's waits: by the caller's check, its deadline, or a connection that is silent."""

    def __init__(self, url: str, connection: WebSocketConnection, timeouts: Timeouts, check: Check | None) -> None:
        self._url = url
        self._connection = connection
        self._timeouts = timeouts
        self._check = check
        self._started = monotonic()
        self._deadline = self._started + timeouts.exchange_s

    def begin_anew(self) -> None:
        """Allow as much time again as there was at first."""
        self._deadline = monotonic() + self._timeouts.exchange_s

    def wait(self) -> None:
        """Check once. Called ten times a second.

        Raises:
            ExchangeTimeoutError: the time is over.
            SilentConnectionError: not even a sign of life has come for too long.
            Whatever the caller's check raises.
        """
        if self._check is not None:
            self._check()
        now = monotonic()
        quiet_s = now - max(self._started, self._connection.heard_at)
        if quiet_s >= self._timeouts.silence_s:
            raise silent(self._url, quiet_s, self._timeouts.silence_s)
        if now > self._deadline:
            raise ExchangeTimeoutError(
                f"{self._url} gave no complete reply in the time allowed, {self._timeouts.exchange_s:.4g} s. Its "
                f"log says whether it still computes; {self._timeouts.setting} allows more."
            )


def _nothing() -> None:
    """Check nothing."""


def _log(text: str) -> None:
    logger.info("%s", text)
