"""The requests that come on one of the server's connections, one after another."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from time import monotonic
from typing import NamedTuple

from ...net.http_heads import BadHttpError
from ...net.http_reader import Body, HttpReader
from .connections import Connection

_RECEIVE_BYTES = 16 * 1024
_CAPITALS = range(ord("A"), ord("Z") + 1)
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Request(NamedTuple):
    """A request whose body is still to be read. Header names are in lower case; `path` has no query."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Body
    keep_alive: bool
    is_http_1_1: bool
    connection: Connection


class Source:
    """A socket from which requests are read."""

    def __init__(self, sock: socket.socket, connection: Connection) -> None:
        self.sock = sock
        self._connection = connection
        self._reader = HttpReader(sock.recv_into, _RECEIVE_BYTES, sock.gettimeout)

    def wait(self, idle_s: float) -> bool:
        """Wait for a request to begin; return False if the client closed the connection, or after `idle_s` seconds.

        Waits in slices of the socket's own time-out, since setting another would cost a system call each time.
        """
        deadline = monotonic() + idle_s
        while not self._has_begun():
            if monotonic() >= deadline:  # also while empty lines come, which are no request
                return False
            try:
                if not self._reader.receive():
                    return False
            except TimeoutError:
                continue
        return True

    def _has_begun(self) -> bool:
        self._reader.skip_empty_lines()
        return self._reader.first_byte() is not None

    def request(self) -> Request:
        """Read the head of the request that has begun.

        Raises:
            BadHttpError: it is no request, or its head takes over 64 KB.
            DisconnectedError: the connection ended in the middle of the head.
            OSError: as sockets raise, TimeoutError included.
        """
        if self._reader.first_byte() not in _CAPITALS:
            # Refused at once: a client that speaks TLS never sends the end of a head, and would wait in vain.
            raise BadHttpError("this is no HTTP/1.1 request line")
        head = self._reader.request_head()
        before = (lambda: self.sock.sendall(_CONTINUE)) if head.expects_continue else None
        body = Body(self._reader, head.length, is_chunked=head.length is None, before=before)
        path = head.target.partition("?")[0]
        return Request(head.method, path, head.headers, body, head.keep_alive, head.is_http_1_1, self._connection)

    def leftover(self) -> bytes:
        """Return what came after the last request and its body, and use it up: see `HttpReader.leftover`."""
        return self._reader.leftover()
