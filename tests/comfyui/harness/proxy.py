"""A proxy between ComfyUI and the worker that counts what crosses, and can get in the way."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from time import monotonic
from typing import BinaryIO

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_BEARER = re.compile(rb"(\r\nauthorization:[ \t]*bearer )[^\r]*", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked\r\n", re.IGNORECASE)
_LARGEST_HEAD = 64 * 1024


@dataclass(frozen=True)
class Exchange:
    """A request. `route` as in `POST /v1/<route>`, else the path; `up_bytes` of head and body."""

    route: str
    up_bytes: int


class Proxy:
    """A proxy for HTTP/1.1, with kept-alive connections and a thread for each.

    Attributes:
        on_request: called with every request before the worker sees it.
        wrong_token: sent to the worker in place of the client's, where set.
    """

    def __init__(self, upstream: tuple[str, int]) -> None:
        self.on_request: Callable[[Exchange], None] | None = None
        self.wrong_token: bytes | None = None
        self._upstream = upstream
        self._exchanges: list[Exchange] = []
        self._replies: list[tuple[str, int]] = []
        self._changed = threading.Condition()
        self._held: dict[str, threading.Event] = {}
        self._open: set[socket.socket] = set()
        self._listener = self._listen(0)
        self.port: int = self._listener.getsockname()[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        """The number of open connections."""
        with self._changed:
            return len(self._open)

    def forget(self) -> None:
        """Begin counting anew."""
        with self._changed:
            self._exchanges.clear()
            self._replies.clear()

    def exchanges(self, route: str) -> list[Exchange]:
        """Return the requests of that route since the last `forget`."""
        with self._changed:
            return [exchange for exchange in self._exchanges if exchange.route == route]

    def wait_for_reply(self, route: str, timeout_s: float = 60.0) -> int:
        """Return the bytes of the worker's first reply to `route`, whether or not anyone still waits for it."""
        with self._changed:
            assert self._changed.wait_for(lambda: any(to == route for to, _ in self._replies), timeout_s)
            return next(size for to, size in self._replies if to == route)

    def wait_for(self, route: str, count: int = 1, timeout_s: float = 60.0) -> None:
        """Wait until `count` requests of that route have come."""
        deadline = monotonic() + timeout_s
        with self._changed:
            while sum(exchange.route == route for exchange in self._exchanges) < count:
                left = deadline - monotonic()
                assert left > 0, f"fewer than {count} requests of {route} within {timeout_s:.0f} s"
                self._changed.wait(left)

    @contextmanager
    def holding(self, route: str) -> Iterator[None]:
        """Keep back the worker's replies to `route`; they are dropped at the end."""
        gate = self._held[route] = threading.Event()
        try:
            yield
        finally:
            del self._held[route]
            gate.set()

    @contextmanager
    def replacing_token(self, token: bytes) -> Iterator[None]:
        """Show the worker another token than the client sent."""
        self.wrong_token = token
        try:
            yield
        finally:
            self.wrong_token = None

    @contextmanager
    def watching(self, hook: Callable[[Exchange], None]) -> Iterator[None]:
        """Call `hook` with each request before the worker sees it."""
        self.on_request = hook
        try:
            yield
        finally:
            self.on_request = None

    @contextmanager
    def down(self) -> Iterator[None]:
        """Answer nobody at this address."""
        self.close()
        try:
            yield
        finally:
            self._listener = self._listen(self.port)

    def close(self) -> None:
        """Stop listening, and break every connection."""
        # shutdown wakes the thread in accept; close alone leaves the port listening until it returns.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._changed:
            broken, self._open = self._open, set()
        for connection in broken:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _listen(self, port: int) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        return listener

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with self._changed:
                self._open.add(client)
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        # Whatever goes wrong on either side is, to the other, a connection that breaks.
        with client, suppress(OSError):
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._relay(client)
        with self._changed:
            self._open.discard(client)

    def _relay(self, client: socket.socket) -> None:
        worker: socket.socket | None = None
        requests = client.makefile("rb")
        try:
            while (request := _read_message(requests)) is not None:
                exchange = Exchange(_route(request), len(request))
                self._count(exchange)
                if worker is None:
                    worker = socket.create_connection(self._upstream)
                    worker.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    replies = worker.makefile("rb")
                worker.sendall(self._passed_on(request))
                reply = _read_message(replies)
                with self._changed:
                    self._replies.append((exchange.route, len(reply or b"")))
                    self._changed.notify_all()
                if gate := self._held.get(exchange.route):
                    gate.wait()
                    return
                if reply is None:
                    return
                client.sendall(reply)
                if _CHUNKED.search(reply.partition(b"\r\n\r\n")[0] + b"\r\n"):
                    _relay_chunks(replies, client)
        finally:
            if worker is not None:
                worker.close()

    def _count(self, exchange: Exchange) -> None:
        with self._changed:
            self._exchanges.append(exchange)
            self._changed.notify_all()
        if self.on_request is not None:
            self.on_request(exchange)

    def _passed_on(self, request: bytes) -> bytes:
        """Return a head as it goes to the worker, with a proxy's mark that it was passed on."""
        line, _, rest = request.partition(b"\r\n")
        request = line + b"\r\nVia: 1.1 harness\r\n" + rest
        if self.wrong_token is None:
            return request
        return _BEARER.sub(rb"\g<1>" + self.wrong_token, request, count=1)


def _relay_chunks(replies: BinaryIO, client: socket.socket) -> None:
    """Return a reply's chunks as they come, to the last one."""
    size = -1
    while size != 0:
        line = replies.readline(_LARGEST_HEAD)
        if not line:
            raise ConnectionResetError
        size = int(line.split(b";")[0], 16)
        client.sendall(line + replies.read(size + 2))


def _read_message(stream: BinaryIO) -> bytes | None:
    """Return a request or a reply, head and body; None where the connection ended."""
    head = bytearray()
    while not head.endswith(b"\r\n\r\n"):
        line = stream.readline(_LARGEST_HEAD)
        if not line:
            return None
        head += line
    length = _LENGTH.search(head)
    expected = int(length[1]) if length else 0
    body = stream.read(expected)
    return bytes(head) + body if len(body) == expected else None


def _route(request: bytes) -> str:
    path = request.split(b" ", 2)[1].decode("ascii", "replace")
    return path.removeprefix("/v1/")
