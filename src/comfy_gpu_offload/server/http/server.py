"""A worker's HTTP server: each connection has a thread, which reads requests, runs the model and sends replies.

An event loop would hand each call to another thread and back, which alone takes as long as the network for a call
of half a megabyte (benchmarks/call_overhead.py). A worker has a few clients with long-lived connections, for which
threads are no burden.
"""

from __future__ import annotations

import errno
import logging
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from http import HTTPStatus
from time import monotonic

from ...net.gathered_send import send_gathered
from ...net.http_heads import BadHttpError
from ...net.http_reader import DisconnectedError
from ...net.sockets import notice_loss, prefer_bbr
from .connections import Connection, Connections
from .reply import Reply, send_reply, send_stream
from .request import Request, Source

logger = logging.getLogger(__name__)

Application = Callable[[Request], Reply]


@dataclass(frozen=True)
class ServerLimits:
    """Limits of the server: times in seconds, and numbers of connections.

    Attributes:
        idle_s: after which an unused connection is closed. Longer than any load balancer's own limit, so that never
            this side closes a connection that the balancer is about to use.
        first_s: the same for a connection before one of its requests was answered without an error; also the
            longest wait for bytes of a request that has not been allowed yet.
        progress_s: the longest wait for the next bytes of a request, and for the client to take bytes of a reply. A
            client whose system is silent for so long, as a machine that sleeps, is gone.
        handshake_s: for the handshake of TLS.
        linger_s: for which the remaining bytes of a refused request are read and dropped, so that its sender, who
            is still sending, can read the refusal. After the last reply of any other connection it is `progress_s`.
        connections: of all clients; beyond it a silent one that has shown no token is closed.
        untrusted_each: of one host that have shown no token.
    """

    idle_s: float = 650.0
    first_s: float = 10.0
    progress_s: float = 60.0
    handshake_s: float = 10.0
    linger_s: float = 5.0
    connections: int = 256
    untrusted_each: int = 32


_ACCEPT_S = 0.2
_BACKLOG = 128
_EVERYWHERE = "::"
_NO_IPV6 = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})
_MAPPED = "::ffff:"  # RFC 4291, 2.5.5.2: begins the address of an IPv4 client on a socket of IPv6
_TLS_HANDSHAKE = b"\x16"  # RFC 8446, 5.1: the type of a connection's first record
_SPEAKS_TLS = Reply(
    HTTPStatus.BAD_REQUEST, (b"This worker speaks TLS: write https:// in place of http:// in its address.",)
)


def listen(host: str, port: int) -> socket.socket:
    """Return a TCP socket that listens on `host` and `port`; 0 for any free port.

    `::` stands for all networks of this machine, by IPv6 and by IPv4, or by IPv4 alone where there is no IPv6.

    Raises:
        OSError: the address cannot be listened on.
    """
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    if address[0] == _EVERYWHERE:
        listener = _listen_everywhere(port)
    else:
        listener = socket.create_server((str(address[0]), port), family=family, backlog=_BACKLOG)
    prefer_bbr(listener)
    return listener


def _listen_everywhere(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(
                (_EVERYWHERE, port), family=socket.AF_INET6, backlog=_BACKLOG, dualstack_ipv6=True
            )
        except OSError as error:
            if error.errno not in _NO_IPV6:
                raise
    return socket.create_server(("0.0.0.0", port), backlog=_BACKLOG)  # noqa: S104  # nosec B104


class HttpServer:
    """A server on a socket that listens already, from its making to its `close`."""

    def __init__(
        self,
        application: Application,
        listener: socket.socket,
        tls: ssl.SSLContext | None = None,
        limits: ServerLimits | None = None,
    ) -> None:
        """Begin to accept connections.

        Args:
            application: returns the reply to a request; called on the connection's thread.
            listener: a listening stream socket of any family, which belongs to the server from now on.
            tls: the certificate; None to serve without TLS.
        """
        self._application = application
        self._tls = tls
        self._limits = limits or ServerLimits()
        self._listener = listener
        self._name = listener.getsockname()
        self._listener.settimeout(_ACCEPT_S)
        self._is_tcp = listener.family in {socket.AF_INET, socket.AF_INET6}
        self._stopping = False
        self._connections = Connections(self._limits.connections, self._limits.untrusted_each)
        # Without a lock: each thread adds and removes its own connection only, and `close` reads a copy.
        self._idle: set[Connection] = set()
        self._thread = threading.Thread(target=self._accept, name="comfy-gpu-offload-accept", daemon=True)
        self._thread.start()

    @property
    def address(self) -> tuple[str, int]:
        """Return the host and the port of a server on a TCP socket."""
        host, port = self._name[:2]
        return host, port

    def close(self, timeout_s: float = 5.0) -> None:
        """Accept no more connections, close the idle ones, and wait for the replies that are being sent."""
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
                logger.warning("a connection could not be accepted: %s", type(error).__name__)
                threading.Event().wait(_ACCEPT_S)  # out of file descriptors, most likely
                continue
            self._begin(Connection(sock, str(address[0]).removeprefix(_MAPPED) if self._is_tcp else ""))

    def _begin(self, connection: Connection) -> None:
        thread = threading.Thread(
            target=self._serve, args=(connection,), name="comfy-gpu-offload-connection", daemon=True
        )
        if not self._connections.admit(connection, thread):
            logger.warning("refused a connection from %s: too many are in use", connection.peer)
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
            if self._is_tcp:
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
        """Return whether the first byte of the other side is not that of a TLS record."""
        sock.settimeout(self._limits.handshake_s)
        return sock.recv(1, socket.MSG_PEEK) not in {b"", _TLS_HANDSHAKE}

    def _secured(self, sock: socket.socket) -> socket.socket:
        if self._tls is None:
            return sock
        sock.settimeout(self._limits.handshake_s)
        # Wraps a duplicate, because wrapping takes the descriptor away from the socket that `close` knows.
        return self._tls.wrap_socket(sock.dup(), server_side=True)

    def _converse(self, connection: Connection, sock: socket.socket) -> None:
        source = Source(sock, connection)
        sock.settimeout(min(self._limits.first_s, self._limits.progress_s))
        connection.on_trust = lambda: sock.settimeout(self._limits.progress_s)
        while not self._stopping:
            connection.is_silent = True
            request = self._next(connection, source)
            if request is None or not self._answer(source, request):
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
        except BadHttpError as error:
            send_reply(source.sock, _refusal(error), keep_alive=False)
            self._linger(source.sock, self._limits.linger_s)
            return None

    def _answer(self, source: Source, request: Request) -> bool:
        """Answer a request; return whether the connection can be used again."""
        sock = source.sock
        connection = request.connection
        connection.is_silent = False
        reply = self._reply(request)
        connection.is_silent = not connection.is_trusted
        if reply.after_s and connection.closed.wait(reply.after_s):
            return False
        connection.is_patient = connection.is_patient or reply.status < HTTPStatus.BAD_REQUEST
        if reply.takes_over is not None:
            send_gathered(sock, reply.buffers)
            reply.takes_over(sock, source.leftover(), lambda: self._stopping)
            return False
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
        except BadHttpError as error:
            return _refusal(error)

    def _linger(self, sock: socket.socket, seconds: float) -> None:
        """Wait up to `seconds` for the client to close the connection.

        To close it with bytes unread, such as those of a request, would reset it, and the part of
        the reply that is still under way would be lost.
        """
        with suppress(OSError):
            sock.shutdown(socket.SHUT_WR)
            sock.settimeout(seconds)
            deadline = monotonic() + seconds
            waste = bytearray(256 * 1024)
            while monotonic() < deadline and sock.recv_into(waste):
                pass


def _refusal(error: BadHttpError) -> Reply:
    return Reply(error.status, (f"{error}\n".encode("ascii", "replace"),))
