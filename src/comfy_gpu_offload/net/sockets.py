"""Socket options and states that client and worker share."""

from __future__ import annotations

import select
import selectors
import socket
from contextlib import suppress
from typing import Final

GONE_S: Final = 30
"""Seconds for which the other side's system may fail to answer until a connection counts as lost."""
# Enough to keep the line busy while the next piece of a frame is made.
_UNSENT_BYTES = 128 * 1024
# Seconds until the first keep-alive probe, and between probes.
_ASKED_AFTER_S, _ASKED_EVERY_S = 10, 5


def wait_writable(sock: socket.socket, seconds: float) -> bool:
    """Wait until something can be sent on `sock`, or it has ended; return False after `seconds`."""
    return _wait(sock, selectors.EVENT_WRITE, seconds)


def wait_readable(sock: socket.socket, seconds: float) -> bool:
    """Wait until there is something to read on `sock`, or it has ended; return False after `seconds`."""
    return _wait(sock, selectors.EVENT_READ, seconds)


def _wait(sock: socket.socket, event: int, seconds: float) -> bool:
    if hasattr(select, "poll"):  # not on Windows; a selector costs several times as much
        poll = select.poll()
        poll.register(sock, select.POLLIN if event == selectors.EVENT_READ else select.POLLOUT)
        return bool(poll.poll(max(0, 1000 * seconds)))
    with selectors.DefaultSelector() as selector:
        selector.register(sock, event)
        return bool(selector.select(seconds))


def has_hung_up(sock: socket.socket) -> bool:
    """Return whether the other side has closed its half, even if bytes that it sent before are unread.

    False where the system cannot tell; then the next send will.
    """
    hung_up = getattr(select, "POLLRDHUP", 0)  # Linux
    if not hung_up or sock.fileno() < 0:
        return sock.fileno() < 0
    poll = select.poll()
    poll.register(sock, hung_up)  # and POLLHUP and POLLERR, which are told in any case
    return bool(poll.poll(0))


def prefer_bbr(sock: socket.socket) -> None:
    """Have the system pace `sock` by measured bandwidth, where it can: BBR does not slow down when idle.

    A listening socket passes this on to the connections that it accepts.
    """
    if hasattr(socket, "TCP_CONGESTION"):
        with suppress(OSError):  # not compiled in, or not allowed
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"bbr")


def limit_unsent(sock: socket.socket) -> None:
    """Have the system take little more from this process than it can send, where it can.

    What waits in its buffer, megabytes on a slow line, would be sent before anything that is urgent.
    """
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        with suppress(OSError):  # a socket of another family
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)


def notice_loss(sock: socket.socket, gone_s: int = GONE_S) -> None:
    """Have the system end a connection whose other side vanished: switched off, or moved to another network.

    Where the system cannot, a reply is waited for as long as the exchange may take.
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
