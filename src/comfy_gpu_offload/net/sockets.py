"""What both sides ask of a socket, and set on it."""

from __future__ import annotations

import select
import selectors
import socket
from contextlib import suppress
from typing import Final

GONE_S: Final = 30
"""How long the other side's system may be silent where it should have answered: what is sent then is lost."""
# A first question after so long without a word, and the next ones.
_ASKED_AFTER_S, _ASKED_EVERY_S = 10, 5


def has_room(sock: socket.socket) -> bool:
    """Whether a few bytes can be sent without waiting: there is more room in the buffer than they take."""
    with selectors.DefaultSelector() as selector:
        selector.register(sock, selectors.EVENT_WRITE)
        return bool(selector.select(0))


def has_hung_up(sock: socket.socket) -> bool:
    """Return whether the other side has closed its way here, whatever it sent before that is unread.

    Where the system cannot say, False: the next send will tell.
    """
    hung_up = getattr(select, "POLLRDHUP", 0)  # Linux
    if not hung_up or sock.fileno() < 0:
        return sock.fileno() < 0
    poll = select.poll()
    poll.register(sock, hung_up)  # and POLLHUP and POLLERR, which are told in any case
    return bool(poll.poll(0))


def prefer_bbr(sock: socket.socket) -> None:
    """Has the system pace `sock` by measured bandwidth, where it can: BBR does not slow down when idle.

    Of a listening socket, the connections that it accepts.
    """
    if hasattr(socket, "TCP_CONGESTION"):
        with suppress(OSError):  # not compiled in, or not allowed
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"bbr")


def notice_loss(sock: socket.socket, gone_s: int = GONE_S) -> None:
    """Has the system end a connection whose other side is gone without a word: off, or reached by another network.

    Where the system knows how; else a reply is waited for as long as the exchange may take.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    wanted = {
        "TCP_KEEPIDLE": min(_ASKED_AFTER_S, gone_s),
        "TCP_KEEPALIVE": min(_ASKED_AFTER_S, gone_s),  # macOS's name of it
        "TCP_KEEPINTVL": min(_ASKED_EVERY_S, gone_s),
        "TCP_KEEPCNT": max(1, (gone_s - _ASKED_AFTER_S) // _ASKED_EVERY_S),
        "TCP_USER_TIMEOUT": 1000 * gone_s,
    }
    for name, value in wanted.items():
        if hasattr(socket, name):
            with suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
