"""A worker's HTTP server: a thread a connection, which reads the request, runs the model and sends the reply.

An event loop would hand each call to another thread and back; for a call of half a megabyte that alone cost as
much as the network (benchmarks/call_overhead.py). A worker serves a few clients with long-lived connections, for
which threads are no burden.
"""

from __future__ import annotations

import logging
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from time import monotonic
from types import MappingProxyType
from typing import NamedTuple

from ..io.buffers import Buffer
from ..io.sockets import prefer_bbr
from .http_request import BadRequestError, DisconnectedError, Request, Source
from .warmth import OFFERED, Warmth, is_asked_for

logger = logging.getLogger(__name__)


class Reply(NamedTuple):
    """A status and a body, sent from its buffers' own memory; with `stream`, piece by piece as they come."""

    status: int
    buffers: Sequence[Buffer] = ()
    media_type: str = "text/plain"
    headers: Mapping[str, str] = MappingProxyType({})
    stream: Iterator[Sequence[Buffer]] | None = None


Application = Callable[[Request], Reply]


@dataclass(frozen=True)
class ServerLimits:
    """Seconds and counts.

    Attributes:
        idle_s: an unused connection is closed after that; longer than any load balancer's own, so that it is
            never this side that closes one in use.
        progress_s: the longest wait for the next bytes of a request, and for the client to take those of a reply.
        handshake_s: for TLS.
        linger_s: how long a refused request's remaining bytes are thrown away, so that its sender, who is still
            sending, gets to read why. After the last reply of any other connection it is `progress_s`.
        connections: more than these at a time are refused.
    """

    idle_s: float = 650.0
    progress_s: float = 60.0
    handshake_s: float = 10.0
    linger_s: float = 5.0
    connections: int = 256


_ACCEPT_S = 0.2
_JOIN_BELOW_BYTES = 16 * 1024
# What a client that makes progress takes in `progress_s`, at 17 KB/s and above.
_SEND_BYTES = 1024 * 1024
_REASONS = {status.value: status.phrase for status in HTTPStatus} | {499: "Client Closed Request"}


class HttpServer:
    """Listens from the start; `close` ends it."""

    def __init__(
        self,
        application: Application,
        host: str,
        port: int,
        tls: ssl.SSLContext | None = None,
        limits: ServerLimits | None = None,
    ) -> None:
        """Listens on `host` and `port`; 0 for any free port.

        Raises:
            OSError: the address cannot be listened on.
        """
        self._application = application
        self._tls = tls
        self._limits = limits or ServerLimits()
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        self._listener = socket.create_server((str(address[0]), port), family=family, backlog=128)
        self._listener.settimeout(_ACCEPT_S)
        prefer_bbr(self._listener)
        self.address: tuple[str, int] = self._listener.getsockname()[:2]
        self._stopping = False
        self._warmth = Warmth()
        self._lock = threading.Lock()
        self._connections: dict[socket.socket, threading.Thread] = {}
        self._idle: set[socket.socket] = set()  # of which each thread adds and takes out its own alone
        self._thread = threading.Thread(target=self._accept, name="comfy-gpu-offload-accept", daemon=True)
        self._thread.start()

    def close(self, timeout_s: float = 5.0) -> None:
        """Takes no more connections, closes the idle ones, and waits for replies that are on their way."""
        deadline = monotonic() + timeout_s
        self._stopping = True
        self._thread.join()
        self._listener.close()
        for sock in list(self._idle):
            _shut(sock)
        with self._lock:
            threads = list(self._connections.values())
        for thread in threads:
            thread.join(max(0.0, deadline - monotonic()))
        with self._lock:
            left = list(self._connections)
        for sock in left:
            _shut(sock)

    def _accept(self) -> None:
        while not self._stopping:
            try:
                sock, _ = self._listener.accept()
            except TimeoutError:
                continue
            except OSError as error:
                logger.warning("a connection could not be taken: %s", type(error).__name__)
                threading.Event().wait(_ACCEPT_S)  # out of file descriptors, most likely
                continue
            self._begin(sock)

    def _begin(self, sock: socket.socket) -> None:
        thread = threading.Thread(
            target=self._serve, args=(sock,), name="comfy-gpu-offload-connection", daemon=True
        )
        with self._lock:
            room = len(self._connections) < self._limits.connections
            if room:
                self._connections[sock] = thread
        if not room:
            logger.warning("refused a connection: there are %d already", self._limits.connections)
            sock.close()
            return
        try:
            thread.start()
        except RuntimeError:  # no more threads
            self._forget(sock)

    def _forget(self, sock: socket.socket) -> None:
        with self._lock:
            self._connections.pop(sock, None)
        sock.close()

    def _serve(self, sock: socket.socket) -> None:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            secured = self._secured(sock)
            try:
                self._converse(sock, secured)
            finally:
                secured.close()
        except (OSError, DisconnectedError) as error:
            logger.debug("a connection ended: %s", type(error).__name__)
        except Exception:
            logger.exception("a connection's thread failed")
        finally:
            self._forget(sock)

    def _secured(self, sock: socket.socket) -> socket.socket:
        if self._tls is None:
            return sock
        sock.settimeout(self._limits.handshake_s)
        # On a duplicate: wrapping takes the descriptor away from the socket that `close` knows.
        return self._tls.wrap_socket(sock.dup(), server_side=True)

    def _converse(self, known: socket.socket, sock: socket.socket) -> None:
        source = Source(sock)
        sock.settimeout(self._limits.progress_s)
        while not self._stopping:
            request = self._next(known, source)
            if request is None or not self._answer(sock, request):
                return

    def _next(self, known: socket.socket, source: Source) -> Request | None:
        self._idle.add(known)
        try:
            begun = source.wait(self._limits.idle_s)
        finally:
            self._idle.discard(known)
        try:
            return source.request() if begun else None
        except BadRequestError as error:
            _send(source.sock, _refusal(error), keep_alive=False)
            self._linger(source.sock, self._limits.linger_s)
            return None

    def _answer(self, sock: socket.socket, request: Request) -> bool:
        """Whether the connection can be used again."""
        asks_for_warmth = is_asked_for(request.headers) and request.is_http_1_1
        reply = self._warmly(sock, request) if asks_for_warmth else self._reply(request)
        keep_alive = request.keep_alive and request.body.ended and not self._stopping
        if reply.stream is not None and request.method != "HEAD":
            keep_alive = keep_alive and request.is_http_1_1
            _send_stream(sock, reply, reply.stream, keep_alive=keep_alive, chunked=request.is_http_1_1)
        else:
            _send(sock, reply, keep_alive=keep_alive, head_only=request.method == "HEAD")
        if not keep_alive:
            self._linger(sock, self._limits.progress_s if request.body.ended else self._limits.linger_s)
        return keep_alive

    def _reply(self, request: Request) -> Reply:
        try:
            return self._application(request)
        except BadRequestError as error:
            return _refusal(error)

    def _warmly(self, sock: socket.socket, request: Request) -> Reply:
        # Two threads must not use one TLS connection at a time: while a body is read, nothing else is sent.
        is_free = (lambda: request.body.ended) if isinstance(sock, ssl.SSLSocket) else (lambda: True)
        with self._warmth.kept(sock, is_free):
            reply = self._reply(request)
        return reply._replace(headers={**reply.headers, "Keep-Warm": OFFERED})

    def _linger(self, sock: socket.socket, seconds: float) -> None:
        """Waits for the client to close, so long at most.

        Closing with bytes unread, as those of a request or an empty line, resets the connection: what is still on
        its way of the reply would be lost.
        """
        with suppress(OSError):
            sock.shutdown(socket.SHUT_WR)
            sock.settimeout(seconds)
            deadline = monotonic() + seconds
            waste = bytearray(256 * 1024)
            while monotonic() < deadline and sock.recv_into(waste):
                pass


def _always() -> bool:
    return True


def _refusal(error: BadRequestError) -> Reply:
    return Reply(error.status, (f"{error}\n".encode("ascii", "replace"),))


def _shut(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _send(sock: socket.socket, reply: Reply, *, keep_alive: bool, head_only: bool = False) -> None:
    size = sum(map(len, reply.buffers))
    head = _head(reply.status, reply.media_type, size, tuple(reply.headers.items()), keep_alive)
    send_all(sock, [head] if head_only else [head, *reply.buffers])


@lru_cache(maxsize=32)  # the replies of one run have the same head
def _head(status: int, media_type: str, size: int, headers: tuple[tuple[str, str], ...], keep_alive: bool) -> bytes:
    lines = [f"HTTP/1.1 {status} {_REASONS.get(status, 'Unknown')}"]
    if status != HTTPStatus.NO_CONTENT:
        lines += [f"Content-Type: {media_type}", f"Content-Length: {size}"]
    lines += [f"{name}: {value}" for name, value in headers]
    if not keep_alive:
        lines.append("Connection: close")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


def _send_stream(
    sock: socket.socket, reply: Reply, pieces: Iterator[Sequence[Buffer]], *, keep_alive: bool, chunked: bool
) -> None:
    """The pieces as chunks, or to HTTP/1.0 until the connection ends."""
    lines = [
        f"HTTP/1.1 {reply.status} {_REASONS.get(reply.status, 'Unknown')}",
        f"Content-Type: {reply.media_type}",
    ]
    # nginx holds back what it has not been told to let through.
    lines += ["X-Accel-Buffering: no", "Cache-Control: no-store"]
    if chunked:
        lines.append("Transfer-Encoding: chunked")
    if not keep_alive or not chunked:
        lines.append("Connection: close")
    head = ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")
    for buffers in pieces:
        size = sum(len(buffer) for buffer in buffers)
        around = (f"{size:x}\r\n".encode(), b"\r\n") if chunked else (b"", b"")
        send_all(sock, [head, around[0], *buffers, around[1]])
        head = b""
    send_all(sock, [head, b"0\r\n\r\n" if chunked else b""])


def send_all(sock: socket.socket, buffers: Sequence[Buffer]) -> None:
    """Sends all buffers; small neighbours leave in one piece, large ones from their own memory."""
    small: list[Buffer] = []
    for buffer in buffers:
        if len(buffer) < _JOIN_BELOW_BYTES:
            small.append(buffer)
            continue
        _send_pair(sock, b"".join(small), memoryview(buffer))
        small = []
    if small:
        _send_whole(sock, memoryview(b"".join(small)))


def _send_pair(sock: socket.socket, head: bytes, body: memoryview) -> None:
    sent = 0
    if head and hasattr(sock, "sendmsg") and not isinstance(sock, ssl.SSLSocket):
        sent = sock.sendmsg([head, body])
    if sent < len(head):
        _send_whole(sock, memoryview(head)[sent:])
    _send_whole(sock, body[max(0, sent - len(head)) :])


def _send_whole(sock: socket.socket, view: memoryview) -> None:
    """In pieces, each with the socket's timeout: `sendall` has to be done with all of it in that time."""
    while view:
        view = view[sock.send(view[:_SEND_BYTES]) :]
