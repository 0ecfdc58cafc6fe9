"""What both sides ask of a socket, and set on it."""

from __future__ import annotations

import selectors
import socket
from contextlib import suppress


def has_room(sock: socket.socket) -> bool:
    """Whether a few bytes can be sent without waiting: there is more room in the buffer than they take."""
    with selectors.DefaultSelector() as selector:
        selector.register(sock, selectors.EVENT_WRITE)
        return bool(selector.select(0))


def prefer_bbr(sock: socket.socket) -> None:
    """Has the system pace `sock` by measured bandwidth, where it can: BBR does not slow down when idle.

    Of a listening socket, the connections that it accepts.
    """
    if hasattr(socket, "TCP_CONGESTION"):
        with suppress(OSError):  # not compiled in, or not allowed
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"bbr")
