"""A link as a proxy of threads: round trip and rates hold to about a percent.

A new connection carries nothing for one round trip, as long as TCP's handshake takes. All else that real TCP adds
is hidden.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from time import perf_counter, sleep

_PIECE_BYTES = 16 * 1024


@contextmanager
def thread_link(round_trip_s: float, up: float, down: float, port: int) -> Iterator[int]:
    """Yield the port at which `port` of this machine is reached over such a link; rates in bytes per second."""
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
                opened_at = perf_counter() + round_trip_s
                _carry(near, far, round_trip_s / 2, up, opened_at)
                _carry(far, near, round_trip_s / 2, down, opened_at)

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.close()
        for sock in opened:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()


def _carry(source: socket.socket, sink: socket.socket, delay_s: float, rate: float, opened_at: float) -> None:
    pieces: SimpleQueue[tuple[float, bytes]] = SimpleQueue()

    def read() -> None:
        free_at = opened_at
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
