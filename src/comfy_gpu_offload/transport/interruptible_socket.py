"""A blocking socket that can be interrupted: every wait is sliced, and ten times a second a check runs.

The check runs by the clock and not only when a slice ends empty: bytes that trickle in would put that off for ever.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence
from errno import ETIMEDOUT
from time import monotonic
from typing import Any

from ..errors import ExchangeTimeoutError
from ..io.buffers import Buffer
from ..net.sockets import has_room
from .base import CHECK_INTERVAL_S, Check
from .silence_watch import SilenceWatch

# Smaller buffers are joined: one system call, and one packet, for headers and a small body.
_JOIN_BELOW_BYTES = 16 * 1024
# Writing a few hundred KB at once lets a slow uplink fill its window and still notice an interrupt.
_SEND_BYTES = 1024 * 1024


class PolledSocket:
    """One exchange's view of a connected socket.

    Raises from every method:
        ExchangeTimeoutError: the deadline has passed.
        SilentConnectionError: nothing has moved for too long.
        OSError: as sockets do.
        Whatever `check` raises.
    """

    def __init__(
        self,
        sock: socket.socket,
        deadline: float,
        check: Check | None,
        *,
        warming: bytes = b"",
        silence: SilenceWatch | None = None,
    ) -> None:
        """Take over `sock` for one exchange.

        Args:
            deadline: by `monotonic`.
            warming: sent ten times a second while a reply is awaited, to keep the way up warm.
        """
        self._sock = sock
        self._deadline = deadline
        self._allowed_s = deadline - monotonic()
        self._tended_at = monotonic()
        self._check = check
        self._warming = warming
        self._silence = silence
        self._is_silent = self._was_heard = False
        if sock.gettimeout() != CHECK_INTERVAL_S:  # a system call
            sock.settimeout(CHECK_INTERVAL_S)

    def extend(self, seconds: float) -> None:
        """Set a new deadline, `seconds` from now."""
        self._deadline = monotonic() + seconds

    def begin_anew(self) -> None:
        """Allow as much time again as there was at first: what was waited for so far does not count."""
        self.extend(self._allowed_s)

    def send(self, buffers: Sequence[Buffer]) -> None:
        """Send all buffers, small neighbours in one piece, large ones from their own memory."""
        small: list[Buffer] = []
        for buffer in buffers:
            if len(buffer) < _JOIN_BELOW_BYTES:
                small.append(buffer)
                continue
            self._send_pair(b"".join(small), memoryview(buffer))
            small = []
        if small:
            self._send_all(memoryview(b"".join(small)))

    def _send_pair(self, head: bytes, body: memoryview) -> None:
        sent = 0
        if head and hasattr(self._sock, "sendmsg") and not isinstance(self._sock, ssl.SSLSocket):
            sent = self._sliced(lambda: self._sock.sendmsg([head, body[:_SEND_BYTES]]))
        if sent < len(head):
            self._send_all(memoryview(head)[sent:])
        self._send_all(body[max(0, sent - len(head)) :])

    def _send_all(self, view: memoryview) -> None:
        position = 0
        while position < len(view):
            piece = view[position : position + _SEND_BYTES]
            position += self._sliced(lambda piece=piece: self._sock.send(piece))

    def receive_into(self, view: memoryview) -> int:
        """Receive up to `len(view)` bytes; return how many, 0 only if the other side has closed."""
        count = self._sliced(lambda: self._sock.recv_into(view), self._warming, awaits_reply=True)
        self._was_heard = True
        return count

    def _sliced(self, operation: Any, warming: bytes = b"", *, awaits_reply: bool = False) -> int:
        while True:
            if monotonic() - self._tended_at >= CHECK_INTERVAL_S:
                self._tend(warming)
            try:
                count = int(operation())
            except TimeoutError as error:
                if error.errno == ETIMEDOUT:  # the system's word: the other side is gone
                    raise
                self._tend(warming)
                self._still(awaits_reply)
                continue
            if self._is_silent:
                self._moves()
            return count

    def _still(self, awaits_reply: bool) -> None:
        self._is_silent = True
        if self._silence is not None:
            self._silence.lasts(awaits_reply=awaits_reply, was_heard=self._was_heard)

    def _moves(self) -> None:
        self._is_silent = False
        if self._silence is not None:
            self._silence.broken()

    def _tend(self, warming: bytes) -> None:
        """Do what is due ten times a second, whether or not something came meanwhile."""
        self._tended_at = monotonic()
        if self._check is not None:
            self._check()
        if monotonic() > self._deadline:
            raise ExchangeTimeoutError("no complete reply within the time allowed")
        # If the buffer is full the way up is not idle, and half a line would spoil the next request.
        if warming and has_room(self._sock):
            self._sock.send(warming)
