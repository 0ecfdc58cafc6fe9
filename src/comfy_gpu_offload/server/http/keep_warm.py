"""Warm connections: a few bytes are sent while the model computes, so that TCP does not slow down.

A TCP connection that is idle for longer than its retransmission timeout begins its next transfer slowly, as if it
were new (RFC 2861; RFC 5681, 4.1). For a call that computes for a second, over a home line, this costs more than
the transfer itself. A few bytes every tenth of a second keep the congestion window open: downward interim responses
(102, RFC 2518), which every HTTP/1.1 client ignores; upward empty lines, which a server ignores before a request
line (RFC 9112, 2.2).
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

from ...net.sockets import has_room

logger = logging.getLogger(__name__)

# The request header that asks for interim responses, and the reply's value of it that asks for empty lines.
_HEADER, _ASKED = "keep-warm", "102"
OFFERED = "crlf"
# Headers that proxies add. Some proxies take an interim response for the reply, and one that closes idle
# connections would take these bytes for work.
_PASSED_ON = ("via", "forwarded", "x-forwarded-for", "x-forwarded-proto", "x-real-ip", "cf-connecting-ip")
_INTERIM = "HTTP/1.1 102 Processing\r\n{}\r\n"
_PLAIN = _INTERIM.format("").encode("ascii")
_EVERY_S = 0.1


def is_asked_for(headers: Mapping[str, str]) -> bool:
    """Return whether a request with these headers asks for interim responses, and no proxy has forwarded it."""
    return headers.get(_HEADER) == _ASKED and not any(name in headers for name in _PASSED_ON)


class Warmth:
    """A thread that sends interim responses on all connections whose calls are being computed. Thread-safe.

    The lock guards the tables. Each connection has a lock besides, held while something is sent on it: by it the
    connection's own thread waits for the interim response under way before it sends the reply, and no other comes
    after that. The tables' lock may be taken while a connection's is held, never the other way round.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[socket.socket, tuple[threading.Lock, Callable[[], bool]]] = {}
        self._said: dict[socket.socket, str] = {}
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    @contextmanager
    def kept(self, sock: socket.socket, is_free: Callable[[], bool] = lambda: True) -> Iterator[None]:
        """Send interim responses on `sock` until the block ends, while `is_free` allows it."""
        sending = threading.Lock()
        with self._lock:
            self._waiting[sock] = sending, is_free
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="comfy-gpu-offload-warmth", daemon=True)
                self._thread.start()
        self._wake.set()
        try:
            yield
        finally:
            with self._lock:
                del self._waiting[sock]
                self._said.pop(sock, None)
            sending.acquire()  # waits for what is being sent; never released, so nothing more is sent

    def say(self, sock: socket.socket, headers: str) -> bool:
        """Send these header lines with the next interim response on `sock`; return False if none are sent."""
        with self._lock:
            if sock not in self._waiting:
                return False
            self._said[sock] = headers
            return True

    def _run(self) -> None:
        idle = threading.Event()
        while True:
            self._wake.wait()
            idle.wait(_EVERY_S)
            with self._lock:
                waiting = list(self._waiting.items())
                if not waiting:
                    self._wake.clear()
            for sock, (sending, is_free) in waiting:
                if is_free() and sending.acquire(blocking=False):
                    # Never wait for a client that has stopped reading: the other connections would slow down.
                    with suppress(OSError, ValueError):  # closed meanwhile
                        if has_room(sock):
                            sock.sendall(self._next(sock))
                    sending.release()

    def _next(self, sock: socket.socket) -> bytes:
        with self._lock:
            headers = self._said.pop(sock, None)
        return _PLAIN if headers is None else _INTERIM.format(headers).encode("ascii")
