"""A TCP proxy between client and worker that counts bytes and breaks connections on demand."""

from __future__ import annotations

import threading
from time import sleep

from tests.support.tcp_proxy import TcpProxy, Way


class BreakingProxy(TcpProxy[threading.Event]):
    """Forwards to `target` (a port of this machine).

    Attributes:
        up, down: bytes forwarded so far, to the worker and from it.
        break_after_up, break_after_down: closes the connection that takes the count over it, once, when it has
            forwarded exactly so many.
        stall_after_up: reads no more from the connection that takes the count over it, once, as a network that is
            full would have it.
        silent_after_up, silent_after_down: forwards no more on the connection that takes the count over it, once,
            and leaves it open.
        silent: the same of all connections, while it is set.
        hung: how many connections have gone silent or stalled.
        alter_after_up, alter_after_down: changes the last byte of the piece that takes the count over it, once.
        rate: bytes a second, each way of each connection; None for as many as go.
    """

    def __init__(self, target: int) -> None:
        self.up = self.down = 0
        self.break_after_up: int | None = None
        self.break_after_down: int | None = None
        self.stall_after_up: int | None = None
        self.silent_after_up: int | None = None
        self.silent_after_down: int | None = None
        self.silent = False
        self.hung = 0
        self.alter_after_up: int | None = None
        self.alter_after_down: int | None = None
        self.rate: float | None = None
        self._ending = threading.Event()
        super().__init__(target)

    def _new_state(self) -> threading.Event:
        """Return the event that is set once the connection is silent."""
        return threading.Event()

    def _passed(self, piece: bytes, way: Way, connection: threading.Event) -> tuple[bytes, bool]:
        setattr(self, way, getattr(self, way) + len(piece))
        surplus = self._reached("break", way)
        if surplus:
            return piece[: len(piece) - surplus], False
        if self._reached("stall", way):
            self.hung += 1
            self._ending.wait()
        if self._reached("silent", way) or self.silent:
            self._hang(connection)
        if connection.is_set():  # a tunnel that hung forgets what went into it
            return b"", True
        if self._reached("alter", way):
            piece = piece[:-1] + bytes([piece[-1] ^ 1])
        if self.rate is not None:
            sleep(len(piece) / self.rate)
        return piece, True

    def _reached(self, what: str, way: Way) -> int:
        """Return by how many bytes the count has passed the place for `what`, the first time that it has."""
        name = f"{what}_after_{way}"
        limit: int | None = getattr(self, name, None)
        if limit is None or getattr(self, way) <= limit:
            return 0
        setattr(self, name, None)
        return int(getattr(self, way)) - limit

    def _hang(self, is_silent: threading.Event) -> None:
        if not is_silent.is_set():
            is_silent.set()
            self.hung += 1

    def start_again(self) -> None:
        """Close all connections and let new ones pass, as a tunnel does that is started again."""
        self.silent = False
        self.end_connections()

    def close(self) -> None:
        self._ending.set()
        super().close()
