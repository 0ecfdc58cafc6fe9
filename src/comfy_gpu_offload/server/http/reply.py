"""HTTP replies, sent from their own memory in as few pieces as possible."""

from __future__ import annotations

import socket
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import lru_cache
from http import HTTPStatus
from types import MappingProxyType
from typing import NamedTuple

from ...io.buffers import Buffer
from ...net.gathered_send import send_gathered

_REASONS = {status.value: status.phrase for status in HTTPStatus} | {499: "Client Closed Request"}


TakesOver = Callable[[socket.socket, bytes, Callable[[], bool]], None]


class Reply(NamedTuple):
    """A status and a body.

    Attributes:
        buffers: the body, sent from their own memory.
        stream: yields the body piece by piece, in place of `buffers`; closed when nobody takes it any more.
        after_s: seconds for which the reply is held back, on its own connection only.
        takes_over: called once the body was sent, without a head, and returns when the connection has ended. It is
            given the socket, what was received after the request, and a function that tells if the server stops.
    """

    status: int
    buffers: Sequence[Buffer] = ()
    media_type: str = "text/plain"
    headers: Mapping[str, str] = MappingProxyType({})
    stream: Generator[Sequence[Buffer]] | None = None
    after_s: float = 0.0
    takes_over: TakesOver | None = None


def send_reply(sock: socket.socket, reply: Reply, *, keep_alive: bool, head_only: bool = False) -> None:
    """Send a reply whose body is in its buffers."""
    size = sum(map(len, reply.buffers))
    head = _head(reply.status, reply.media_type, size, tuple(reply.headers.items()), keep_alive)
    send_gathered(sock, [head] if head_only else [head, *reply.buffers])


@lru_cache(maxsize=32)  # all replies of a run have the same head
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
    """Send the pieces as chunks; to an HTTP/1.0 client, up to the end of the connection."""
    lines = [
        f"HTTP/1.1 {reply.status} {_REASONS.get(reply.status, 'Unknown')}",
        f"Content-Type: {reply.media_type}",
    ]
    # nginx buffers a reply unless it is told not to.
    lines += ["X-Accel-Buffering: no", "Cache-Control: no-store"]
    if chunked:
        lines.append("Transfer-Encoding: chunked")
    if not keep_alive or not chunked:
        lines.append("Connection: close")
    head = ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")
    for buffers in pieces:
        size = sum(len(buffer) for buffer in buffers)
        around = (f"{size:x}\r\n".encode(), b"\r\n") if chunked else (b"", b"")
        send_gathered(sock, [head, around[0], *buffers, around[1]])
        head = b""
    send_gathered(sock, [head, b"0\r\n\r\n" if chunked else b""])
