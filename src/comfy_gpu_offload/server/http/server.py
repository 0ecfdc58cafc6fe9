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
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from http import HTTPStatus
from time import monotonic

from ...net.sockets import notice_loss, prefer_bbr
from .connections import Connection, Connections
from .keep_warm import OFFERED, Warmth, is_asked_for
from .reply import Reply, send_reply, send_stream
from .request import BadRequestError, DisconnectedError, Request, Source

logger = logging.getLogger(__name__)


Application = Callable[[Request], Reply]


@dataclass(frozen=True)
class ServerLimits:
    """Seconds and counts.

    Attributes:
        idle_s: an unused connection is closed after that; longer than any load balancer's own, so that it is
            never this side that closes one in use.
        first_s: the same before a first request was answered well, and the longest wait for the bytes of one that
            nobody has allowed yet.
        progress_s: the longest wait for the next bytes of a request, and for the client to take those of a reply;
            one whose system is silent for that long, as a machine that sleeps, is gone.
        handshake_s: for TLS.
        linger_s: how long a refused request's remaining bytes are thrown away, so that its sender, who is still
            sending, gets to read why. After the last reply of any other connection it is `progress_s`.
        connections: at most so many at a time; beyond that a silent one that has shown no token goes.
        untrusted_each: at most so many of one address that have shown no token.
    """

    idle_s: float = 650.0
    first_s: float = 10.0
    progress_s: float = 60.0
    handshake_s: float = 10.0
    linger_s: float = 5.0
    connections: int = 256
    untrusted_each: int = 32


_ACCEPT_S = 0.2
_TLS_HANDSHAKE = b"\x16"  # RFC 8446, 5.1: the type of a connection's first record
_SPEAKS_TLS = Reply(
    HTTPStatus.BAD_REQUEST, (b"This worker speaks TLS: write https:// in place of http:// in its address.",)
)


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
        self._connections = Connections(self._limits.connections, self._limits.untrusted_each)
        self._idle: set[Connection] = set()  # of which each thread adds and takes out its own alone
        self._thread = threading.Thread(target=self._accept, name="comfy-gpu-offload-accept", daemon=True)
        self._thread.start()

    def close(self, timeout_s: float = 5.0) -> None:
        """Takes no more connections, closes the idle ones, and waits for replies that are on their way."""
        deadline = monotonic() + timeout_s
        self._stopping = True
        self._thread.join()
        self._listener.close()
        for connection in list(self._idle):
            connection.close()
        for thread in self._connections.threads():
            thread.join(max(0.0, deadline - monotonic()))
        for connection in self._connections.all():
            connection.close()

    def _accept(self) -> None:
        while not self._stopping:
            try:
                sock, address = self._listener.accept()
            except TimeoutError:
                continue
            except OSError as error:
                logger.warning("a connection could not be taken: %s", type(error).__name__)
                threading.Event().wait(_ACCEPT_S)  # out of file descriptors, most likely
                continue
            self._begin(Connection(sock, str(address[0])))

    def _begin(self, connection: Connection) -> None:
        thread = threading.Thread(
            target=self._serve, args=(connection,), name="comfy-gpu-offload-connection", daemon=True
        )
        if not self._connections.admit(connection, thread):
            logger.warning("refused a connection from %s: there are too many that are in use", connection.peer)
            connection.sock.close()
            return
        try:
            thread.start()
        except RuntimeError:  # no more threads
            self._forget(connection)

    def _forget(self, connection: Connection) -> None:
        self._connections.forget(connection)
        connection.sock.close()

    def _serve(self, connection: Connection) -> None:
        try:
            connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            notice_loss(connection.sock, max(1, round(self._limits.progress_s)))
            if self._tls is not None and self._is_plain(connection.sock):
                send_reply(connection.sock, _SPEAKS_TLS, keep_alive=False)
                self._linger(connection.sock, self._limits.linger_s)
                return
            secured = self._secured(connection.sock)
            try:
                self._converse(connection, secured)
            finally:
                secured.close()
        except (OSError, DisconnectedError) as error:
            logger.debug("a connection ended: %s", type(error).__name__)
        except Exception:
            logger.exception("a connection's thread failed")
        finally:
            self._forget(connection)

    def _is_plain(self, sock: socket.socket) -> bool:
        """Return whether the other side begins with something else than a TLS record."""
        sock.settimeout(self._limits.handshake_s)
        return sock.recv(1, socket.MSG_PEEK) not in {b"", _TLS_HANDSHAKE}

    def _secured(self, sock: socket.socket) -> socket.socket:
        if self._tls is None:
            return sock
        sock.settimeout(self._limits.handshake_s)
        # On a duplicate: wrapping takes the descriptor away from the socket that `close` knows.
        return self._tls.wrap_socket(sock.dup(), server_side=True)

    def _converse(self, connection: Connection, sock: socket.socket) -> None:
        source = Source(sock, connection)
        sock.settimeout(min(self._limits.first_s, self._limits.progress_s))
        connection.on_trust = lambda: sock.settimeout(self._limits.progress_s)
        while not self._stopping:
            connection.is_silent = True
            request = self._next(connection, source)
            if request is None or not self._answer(sock, request):
                return

    def _next(self, connection: Connection, source: Source) -> Request | None:
        idle_s = self._limits.idle_s
        self._idle.add(connection)
        try:
            begun = source.wait(idle_s if connection.is_patient else min(idle_s, self._limits.first_s))
        finally:
            self._idle.discard(connection)
        try:
            return source.request() if begun else None
        except BadRequestError as error:
            send_reply(source.sock, _refusal(error), keep_alive=False)
            self._linger(source.sock, self._limits.linger_s)
            return None

    def _answer(self, sock: socket.socket, request: Request) -> bool:
        """Whether the connection can be used again."""
        connection = request.connection
        connection.is_silent = False
        asks_for_warmth = is_asked_for(request.headers) and request.is_http_1_1
        reply = self._warmly(sock, request) if asks_for_warmth else self._reply(request)
        connection.is_silent = not connection.is_trusted
        if reply.after_s and connection.closed.wait(reply.after_s):
            return False
        connection.is_patient = connection.is_patient or reply.status < HTTPStatus.BAD_REQUEST
        keep_alive = request.keep_alive and request.body.ended and not self._stopping
        if reply.stream is not None and request.method != "HEAD":
            keep_alive = keep_alive and request.is_http_1_1
            with closing(reply.stream):
                send_stream(sock, reply, reply.stream, keep_alive=keep_alive, chunked=request.is_http_1_1)
        else:
            send_reply(sock, reply, keep_alive=keep_alive, head_only=request.method == "HEAD")
        if not keep_alive:
            done = request.body.ended and connection.is_trusted
            self._linger(sock, self._limits.progress_s if done else self._limits.linger_s)
        return keep_alive

    def _reply(self, request: Request) -> Reply:
        try:
            return self._application(request)
        except BadRequestError as error:
            return _refusal(error)

    def _warmly(self, sock: socket.socket, request: Request) -> Reply:
        # Two threads must not use one TLS connection at a time: while a body is read, nothing else is sent.
        is_free = (lambda: request.body.ended) if isinstance(sock, ssl.SSLSocket) else (lambda: True)
        request.connection.say = lambda headers: self._warmth.say(sock, headers)
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


def _refusal(error: BadRequestError) -> Reply:
    return Reply(error.status, (f"{error}\n".encode("ascii", "replace"),))
