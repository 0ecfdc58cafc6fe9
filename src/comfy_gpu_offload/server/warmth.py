"""Keeps connections warm while the model computes.

A TCP connection that is idle for longer than its retransmission timeout begins its next transfer slowly, as if it
were new (RFC 2861; RFC 5681, 4.1). For a call of a second of compute over a home line that costs more than the
transfer itself. A few bytes a tenth of a second keep the window open: downward interim responses (102, RFC 2518),
which every HTTP/1.1 client passes over; upward empty lines, which a server passes over before a request line
(RFC 9112, 2.2).
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ..io.sockets import has_room

logger = logging.getLogger(__name__)

# The request header that asks for it, and the reply header that says that empty lines are welcome.
HEADER = "keep-warm"
ASKED, OFFERED = "102", "crlf"
_INTERIM = b"HTTP/1.1 102 Processing\r\n\r\n"
_EVERY_S = 0.1


class Warmth:
    """One thread that sends interim responses to all connections whose calls are being computed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[socket.socket, threading.Lock] = {}
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    @contextmanager
    def kept(self, sock: socket.socket) -> Iterator[None]:
        """Until the block ends; nothing is sent on `sock` after that."""
        sending = threading.Lock()
        with self._lock:
            self._waiting[sock] = sending
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="comfy-gpu-offload-warmth", daemon=True)
                self._thread.start()
        self._wake.set()
        try:
            yield
        finally:
            with self._lock:
                del self._waiting[sock]
            sending.acquire()  # whatever is on its way leaves whole; it is never given back

    def _run(self) -> None:
        idle = threading.Event()
        while True:
            self._wake.wait()
            idle.wait(_EVERY_S)
            with self._lock:
                waiting = list(self._waiting.items())
                if not waiting:
                    self._wake.clear()
            for sock, sending in waiting:
                if sending.acquire(blocking=False):
                    # A client that has stopped reading is not waited for: the others would cool down.
                    with suppress(OSError, ValueError):  # closed meanwhile
                        if has_room(sock):
                            sock.sendall(_INTERIM)
                    sending.release()
