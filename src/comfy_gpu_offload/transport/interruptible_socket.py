"""A blocking socket that can be interrupted: every wait is sliced, and ten times a second a check runs.

The check runs by the clock and not only when a slice ends empty: bytes that trickle in would put that off for ever.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from errno import ETIMEDOUT
from time import monotonic

from ..errors import ExchangeTimeoutError
from ..io.buffers import Buffer
from ..net.gathered_send import send_gathered
from .base import CHECK_INTERVAL_S, Check
from .silence_watch import SilenceWatch


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
        silence: SilenceWatch | None = None,
    ) -> None:
        """Take over `sock` for one exchange.

        Args:
            deadline: by `monotonic`.
        """
        self._sock = sock
        self._deadline = deadline
        self._tended_at = monotonic()
        self._check = check
        self._silence = silence
        self._is_silent = self._was_heard = False
        if sock.gettimeout() != CHECK_INTERVAL_S:  # a system call
            sock.settimeout(CHECK_INTERVAL_S)

    def extend(self, seconds: float) -> None:
        """Set a new deadline, `seconds` from now."""
        self._deadline = monotonic() + seconds

    def send(self, buffers: Sequence[Buffer]) -> None:
        """Send all buffers, small neighbours in one piece, large ones from their own memory."""
        send_gathered(self._sock, buffers, self._sliced)

    def receive_into(self, view: memoryview) -> int:
        """Receive up to `len(view)` bytes; return how many, 0 only if the other side has closed."""
        count = self._sliced(lambda: self._sock.recv_into(view), awaits_reply=True)
        self._was_heard = True
        return count

    def _sliced(self, operation: Callable[[], int], *, awaits_reply: bool = False) -> int:
        while True:
            if monotonic() - self._tended_at >= CHECK_INTERVAL_S:
                self._tend()
            try:
                count = operation()
            except TimeoutError as error:
                if error.errno == ETIMEDOUT:  # the system's word: the other side is gone
                    raise
                self._tend()
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

    def _tend(self) -> None:
        """Do what is due ten times a second, whether or not something came meanwhile."""
        self._tended_at = monotonic()
        if self._check is not None:
            self._check()
        if monotonic() > self._deadline:
            raise ExchangeTimeoutError("no complete reply within the time allowed")
