"""What both sides ask of a socket."""

from __future__ import annotations

import selectors
import socket


def has_room(sock: socket.socket) -> bool:
    """Whether a few bytes can be sent without waiting: there is more room in the buffer than they take."""
    with selectors.DefaultSelector() as selector:
        selector.register(sock, selectors.EVENT_WRITE)
        return bool(selector.select(0))
