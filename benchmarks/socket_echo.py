"""The baseline of a call over loopback: the same bytes both ways between two processes, and nothing else.

The bare exchange is blocking sockets and one buffer each, used again and again, so that it stays in the caches: as
quick as two Python processes can be. The thinnest HTTP exchange adds what cannot be left out of a call: a head each
way, and on each side a new buffer for what comes, since the last one may still be in use.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

from comfy_gpu_offload.io.buffers import allocate
from comfy_gpu_offload.server.malloc_tuning import keep_freed_memory
from worker_process import worker_process

_REQUEST = b"POST /v1/forward HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n"
_REPLY = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"
_HEAD_BYTES = 16 * 1024


def receive_exactly(connection: socket.socket, view: memoryview) -> bool:
    """Fill `view`; return False if the other side closed instead."""
    filled = 0
    while filled < len(view):
        count = connection.recv_into(view[filled:])
        if not count:
            return False
        filled += count
    return True


def _echo(connection: socket.socket, size_bytes: int) -> None:
    view = memoryview(bytearray(size_bytes))
    while receive_exactly(connection, view):
        connection.sendall(view)


def _receive_body(connection: socket.socket, head: memoryview) -> memoryview | None:
    """Return a message's body, in a buffer of its own; None at the connection's end."""
    have = 0
    while (end := bytes(head[:have]).find(b"\r\n\r\n")) < 0:
        count = connection.recv_into(head[have:])
        if not count:
            return None
        have += count
    body = allocate(int(bytes(head[:end]).rpartition(b" ")[2]))
    begun = head[end + 4 : have]
    body[: len(begun)] = begun
    return body if receive_exactly(connection, body[len(begun) :]) else None


def _send(connection: socket.socket, head: bytes, body: memoryview) -> None:
    sent = connection.sendmsg([head, body])
    if sent < len(head) + len(body):
        connection.sendall(body[sent - len(head) :])


def _echo_by_http(connection: socket.socket, _: int) -> None:
    keep_freed_memory()
    head = memoryview(bytearray(_HEAD_BYTES))
    while (body := _receive_body(connection, head)) is not None:
        _send(connection, _REPLY % len(body), body)


def _serve(ready: Connection, echo: Callable[[socket.socket, int], None], size_bytes: int) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    ready.send(listener.getsockname()[1])
    connection, _ = listener.accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    echo(connection, size_bytes)


@contextmanager
def _connected(echo: Callable[[socket.socket, int], None], size_bytes: int) -> Iterator[socket.socket]:
    with (
        worker_process(_serve, echo, size_bytes) as port,
        socket.create_connection(("127.0.0.1", port)) as connection,
    ):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield connection


@contextmanager
def bare_exchange(size_bytes: int) -> Iterator[Callable[[], None]]:
    """Yield a function that sends that many bytes to another process and gets as many back."""
    out, back = memoryview(bytearray(size_bytes)), memoryview(bytearray(size_bytes))
    with _connected(_echo, size_bytes) as connection:

        def exchange() -> None:
            connection.sendall(out)
            receive_exactly(connection, back)

        yield exchange


@contextmanager
def http_exchange(size_bytes: int) -> Iterator[Callable[[], None]]:
    """Yield the same function by HTTP, with as little of it as possible."""
    out, head = memoryview(bytearray(size_bytes)), memoryview(bytearray(_HEAD_BYTES))
    with _connected(_echo_by_http, size_bytes) as connection:

        def exchange() -> None:
            _send(connection, _REQUEST % size_bytes, out)
            _receive_body(connection, head)

        yield exchange
