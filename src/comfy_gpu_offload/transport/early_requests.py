"""Requests that wait for a WebSocket to be opened, and go with its upgrade: that saves a round trip."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ..io.frame import EncodedFrame
from ..net.websocket.handshake import MAX_EARLY_BYTES
from .base import Route
from .websocket_connection import OpenExchange, WebSocketConnection

_ROUTE: Route = "hello"  # whose requests may all be sent twice
_MOST = 8


@dataclass(eq=False)
class EarlyRequest:
    """A request whose caller waits for the connection.

    Attributes:
        frame: None for one that cannot go with an upgrade.
        exchange: the request's, once the worker has taken it with an upgrade.
        is_withdrawn: whether the caller waits no more.
    """

    frame: EncodedFrame | None
    exchange: OpenExchange | None = None
    is_withdrawn: bool = False


class EarlyRequests:
    """The requests that wait for one transport's connection. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[EarlyRequest] = []

    @contextmanager
    def waiting(self, route: Route, frame: EncodedFrame) -> Iterator[EarlyRequest]:
        """Have the request go with an upgrade that is made within the block, if it may and has room."""
        may_go = route == _ROUTE and frame.size_bytes <= MAX_EARLY_BYTES
        request = EarlyRequest(frame if may_go else None)
        with self._lock:
            self._waiting.append(request)
        try:
            yield request
        except BaseException:
            with self._lock:
                request.is_withdrawn = True
            raise
        finally:
            with self._lock:
                self._waiting.remove(request)

    def for_upgrade(self) -> list[EarlyRequest]:
        """Return the requests that are to go with the upgrade that is sent now."""
        left, found = MAX_EARLY_BYTES, []
        with self._lock:
            for request in self._waiting:
                if request.frame is not None and request.exchange is None and request.frame.size_bytes <= left:
                    left -= request.frame.size_bytes
                    found.append(request)
        return found[:_MOST]

    def taken(self, requests: Sequence[EarlyRequest], connection: WebSocketConnection) -> None:
        """Give the exchanges that the worker began with the upgrade to those who wait for them."""
        with self._lock:
            for request, exchange in zip(requests, connection.early, strict=True):
                request.exchange = exchange
                if request.is_withdrawn:
                    connection.end(exchange, is_answered=False)
