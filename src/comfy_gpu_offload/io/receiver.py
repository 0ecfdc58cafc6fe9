"""Receives from a socket, and does not go to sleep for what comes at once.

A core that has slept for even 20 µs is a fifth to a half slower for the next few hundred, which is all that a call
on one machine takes beyond its model. So where the last wait was brief, the next one is spent in looking again
and again, as long as it is brief too.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
from time import perf_counter

# A few times what either side of a call of half a megabyte waits for the other; of no account beside any network.
_BRIEF_S = 400e-6
# Looking once takes a microsecond or two where this thread has its core to itself. Where it does not, looking is in
# the way of others, and so many waits are spent asleep before it is tried again.
_SHARED_S = 30e-6
_ASLEEP = 64


class Receiver:
    """One socket's receiving side. `sock` may not be exchanged, its timeout may change."""

    __slots__ = ("_is_brief", "_poll", "_to_sleep", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._poll = _poll_of(sock)
        self._is_brief = False
        self._to_sleep = 0  # so many waits, however brief

    def receive_into(self, view: memoryview | bytearray) -> int:
        """Up to `len(view)` bytes, at least one unless the other side has closed.

        Raises:
            OSError: as sockets do, TimeoutError among them.
        """
        poll = self._poll
        if poll is not None and not poll.poll(0):
            self._wait(poll)
        return self.sock.recv_into(view)

    @property
    def has_something(self) -> bool:
        """Whether there is something to receive, the end included; where that cannot be told, so it is said."""
        return self._poll is None or bool(self._poll.poll(0))

    def _wait(self, poll: select.poll) -> None:
        began = perf_counter()
        if self._is_brief:
            self._look(poll, began)
            return
        timeout = self.sock.gettimeout()
        if not poll.poll(None if timeout is None else 1000 * timeout):
            raise TimeoutError("timed out")
        if self._to_sleep:
            self._to_sleep -= 1
        else:
            self._is_brief = perf_counter() - began < _BRIEF_S

    def _look(self, poll: select.poll, began: float) -> None:
        """Until something comes or the wait is no longer brief: then the socket itself waits on."""
        now = began
        while now - began < _BRIEF_S:
            os.sched_yield()  # to whoever else has work for this core
            looked, now = now, perf_counter()
            if now - looked > _SHARED_S:  # somebody has, and may be the one who is waited for
                self._to_sleep = _ASLEEP
                break
            if poll.poll(0):
                return
        self._is_brief = False


def _poll_of(sock: socket.socket) -> select.poll | None:
    """None where looking is of no use: what TLS has deciphered is no longer seen in the socket, and the other side
    may need the only core."""
    if isinstance(sock, ssl.SSLSocket) or not hasattr(os, "sched_getaffinity") or not hasattr(select, "poll"):
        return None
    if len(os.sched_getaffinity(0)) < 2:
        return None
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return poll
