"""A socket whose operations have to end, all of them together, at one deadline."""

from __future__ import annotations

import socket
from time import monotonic


class TimedSocket:
    """A connected socket until `deadline`, by `monotonic`.

    Raises from every method:
        TimeoutError: the deadline has passed. A trickle of bytes does not put it off.
        OSError: as sockets do.

    Attributes:
        was_heard: whether anything was received by `recv`.
    """

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock = sock
        self._deadline = deadline
        self.was_heard = False

    def sendall(self, data: bytes) -> None:
        """Send all of `data`."""
        self._bounded().sendall(data)

    def recv(self, size: int) -> bytes:
        """Receive up to `size` bytes; none only at the connection's end."""
        data = self._bounded().recv(size)
        self.was_heard = True
        return data

    def recv_into(self, view: memoryview) -> int:
        """Receive up to `len(view)` bytes; return how many, 0 only at the connection's end."""
        return self._bounded().recv_into(view)

    def close(self) -> None:
        """Close the connection."""
        self._sock.close()

    def _bounded(self) -> socket.socket:
        left = self._deadline - monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self._sock.settimeout(left)
        return self._sock
