"""Replies, and how they are sent: from their own memory, in as few pieces as may be."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Generator, Iterator, Mapping, Sequence
from functools import lru_cache
from http import HTTPStatus
from types import MappingProxyType
from typing import NamedTuple

from ...io.buffers import Buffer

_JOIN_BELOW_BYTES = 16 * 1024
# What a client that makes progress takes in `progress_s`, at 17 KB/s and above.
_SEND_BYTES = 1024 * 1024
_REASONS = {status.value: status.phrase for status in HTTPStatus} | {499: "Client Closed Request"}


class Reply(NamedTuple):
    """A status and a body, sent from its buffers' own memory; with `stream`, piece by piece as they come.

    `stream` is closed when nobody takes it any more. `after_s`: how long it is kept back, on its connection alone.
    """

    status: int
    buffers: Sequence[Buffer] = ()
    media_type: str = "text/plain"
    headers: Mapping[str, str] = MappingProxyType({})
    stream: Generator[Sequence[Buffer]] | None = None
    after_s: float = 0.0


def send_reply(sock: socket.socket, reply: Reply, *, keep_alive: bool, head_only: bool = False) -> None:
    """Send a reply that is there as a whole."""
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


def send_stream(
    sock: socket.socket, reply: Reply, pieces: Iterator[Sequence[Buffer]], *, keep_alive: bool, chunked: bool
) -> None:
    """Send the pieces as chunks, or to HTTP/1.0 until the connection ends."""
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
    """Send all buffers; small neighbours leave in one piece, large ones from their own memory."""
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
