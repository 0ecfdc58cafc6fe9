"""Sending of several buffers: small neighbours in one piece, large ones from their own memory."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterable, Sequence

Buffer = bytes | bytearray | memoryview

# Smaller buffers are joined: one system call, and one packet, for headers and a small body.
_JOIN_BELOW_BYTES = 16 * 1024
# At once: lets a slow uplink fill its window, and a caller notice an interrupt in between.
_SEND_BYTES = 1024 * 1024

# Runs one blocking send and returns how many bytes it took.
Run = Callable[[Callable[[], int]], int]


def send_gathered(sock: socket.socket, buffers: Iterable[Buffer], run: Run = lambda operation: operation()) -> None:
    """Send all of the buffers.

    Each operation on the socket may take as long as the socket's own time-out, where `sendall` would have to send
    everything in that time.

    Args:
        run: called with each operation on the socket. After a TimeoutError it may call it again: nothing was sent.

    Raises:
        OSError: as sockets do.
        Whatever `run` raises.
    """
    small: list[Buffer] = []
    for buffer in buffers:
        if len(buffer) < _JOIN_BELOW_BYTES:
            small.append(buffer)
            continue
        _send_pair(sock, b"".join(small), memoryview(buffer), run)
        small = []
    _send_whole(sock, memoryview(b"".join(small)), run)


def _send_pair(sock: socket.socket, head: bytes, body: memoryview, run: Run) -> None:
    sent = 0
    if head and hasattr(sock, "sendmsg") and not isinstance(sock, ssl.SSLSocket):
        pair: Sequence[Buffer] = (head, body[:_SEND_BYTES])
        sent = run(lambda: sock.sendmsg(pair))
    _send_whole(sock, memoryview(head)[sent:], run)
    _send_whole(sock, body[max(0, sent - len(head)) :], run)


def _send_whole(sock: socket.socket, view: memoryview, run: Run) -> None:
    while view:
        piece = view[:_SEND_BYTES]
        view = view[run(lambda piece=piece: sock.send(piece)) :]  # type: ignore[misc]
