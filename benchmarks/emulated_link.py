"""A link of a given round trip and rates, emulated by a proxy of threads on this machine.

It holds round trip and rates to about a percent, and hides what real TCP adds: slow starts and congestion windows
that shrink while nothing is sent.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from queue import SimpleQueue
from time import perf_counter, sleep

_PIECE_BYTES = 16 * 1024


@dataclass(frozen=True)
class Link:
    """Round trip in seconds, rates in bytes a second."""

    round_trip_s: float
    up: float
    down: float

    @classmethod
    def of(cls, text: str) -> Link:
        """``MS/MBIT/MBIT``: round trip, up, down."""
        round_trip, up, down = (float(part) for part in text.split("/"))
        return cls(round_trip / 1e3, up * 1e6 / 8, down * 1e6 / 8)

    def __str__(self) -> str:
        return f"{self.round_trip_s * 1e3:g} ms, {self.up * 8e-6:g}/{self.down * 8e-6:g} Mbit/s"

    def ideal_s(self, up_bytes: int, down_bytes: int) -> float:
        """What one exchange of so many bytes takes at least."""
        return self.round_trip_s + up_bytes / self.up + down_bytes / self.down


@contextmanager
def emulated(link: Link, port: int) -> Iterator[int]:
    """The port at which `port` of this machine is reached over `link`."""
    listener = socket.create_server(("127.0.0.1", 0))
    opened: list[socket.socket] = []

    def accept() -> None:
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", port))
                opened.extend((near, far))
                for sock in (near, far):
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                _carry(near, far, link.round_trip_s / 2, link.up)
                _carry(far, near, link.round_trip_s / 2, link.down)

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.close()
        for sock in opened:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()


def _carry(source: socket.socket, sink: socket.socket, delay_s: float, rate: float) -> None:
    pieces: SimpleQueue[tuple[float, bytes]] = SimpleQueue()

    def read() -> None:
        free_at = 0.0
        with suppress(OSError):
            while piece := source.recv(_PIECE_BYTES):
                free_at = max(perf_counter(), free_at) + len(piece) / rate
                pieces.put((free_at + delay_s, piece))
                # No more than the delay's worth is on its way; the rest waits at the sender, as on a real link.
                if (ahead := free_at - perf_counter()) > 0.02:
                    sleep(ahead - 0.01)
        pieces.put((0.0, b""))

    def write() -> None:
        with suppress(OSError):
            while True:
                due, piece = pieces.get()
                if not piece:
                    sink.shutdown(socket.SHUT_WR)
                    return
                if (wait := due - perf_counter()) > 0:
                    sleep(wait)
                sink.sendall(piece)

    for target in (read, write):
        threading.Thread(target=target, daemon=True).start()
