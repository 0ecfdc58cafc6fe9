"""Faults of requests and replies on their way, which a test asks a server of its own for."""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict, deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from aiohttp import web


@dataclass(frozen=True)
class Fault:
    """One request's fault.

    Attributes:
        status, body, headers: answered instead of acting on the request; without a status, it is acted on. The
            body is JSON unless it is a text.
        delay_s, reply_delay_s: before it is acted on, and before the reply is sent.
        drop: closes the connection: with the request unread and not acted on, or acted on and with no reply.
        after_bytes: how much of the dropped body goes through first; None for not even its headers.
    """

    status: int | None = None
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    reply_delay_s: float = 0.0
    drop: Literal["request", "reply"] | None = None
    after_bytes: int | None = None

    def answer(self) -> web.Response:
        """Return the reply that replaces the true one."""
        assert self.status is not None
        if isinstance(self.body, str):
            return web.Response(status=self.status, text=self.body, headers=self.headers)
        return web.json_response(self.body, status=self.status, headers=self.headers)


def rate_limited(retry_after_s: float | None = 1) -> Fault:
    """Return a 429, as any of RunPod's routes may answer."""
    headers = {} if retry_after_s is None else {"Retry-After": f"{retry_after_s:g}"}
    return Fault(429, {"error": "too many requests"}, headers)


def bad_gateway() -> Fault:
    """Return a 502, with the page that a proxy shows."""
    return Fault(502, "<html><head><title>502 Bad Gateway</title></head></html>")


def edge_timeout() -> Fault:
    """Return a 524, with the page of the edge before RunPod's API."""
    return Fault(524, "<html><head><title>524: A timeout occurred</title></head></html>")


class Faults:
    """Faults to come, by route. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: defaultdict[str, deque[Fault | None]] = defaultdict(deque)

    def add(self, route: str, fault: Fault, *, times: int = 1, after: int = 0) -> None:
        """Have the next `times` requests to `route` meet `fault`, once `after` more have gone well."""
        with self._lock:
            self._waiting[route] += [None] * after + [fault] * times

    def clear(self) -> None:
        """Remove all faults."""
        with self._lock:
            self._waiting.clear()

    def take(self, route: str) -> Fault | None:
        """Return the fault of this request to `route`, if any."""
        with self._lock:
            return self._waiting[route].popleft() if self._waiting[route] else None


async def drop_request(request: web.BaseRequest, after_bytes: int | None) -> web.Response:
    """Close the connection with the request's body unread, or read that far."""
    left = after_bytes or 0
    while left > 0 and (piece := await request.content.read(min(left, 65536))):
        left -= len(piece)
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=499)


async def drop_reply(request: web.BaseRequest, reply: web.Response, after_bytes: int | None) -> web.StreamResponse:
    """Close the connection instead of sending `reply`, or in the middle of it."""
    if after_bytes is None:
        if request.transport is not None:
            request.transport.close()
        return reply
    body = reply.body if isinstance(reply.body, (bytes, bytearray)) else b""
    cut = web.StreamResponse(status=reply.status, headers=reply.headers)
    cut.content_length = len(body)
    with suppress(ConnectionError):
        await cut.prepare(request)
        await cut.write(bytes(body[:after_bytes]))
        await asyncio.sleep(0)
    if request.transport is not None:
        request.transport.close()
    return cut
