"""A TCP proxy between client and worker that counts bytes and breaks connections on demand."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from time import sleep
from types import TracebackType


class BreakingProxy:
    """Forwards to `target` (a port of this machine).

    Attributes:
        up, down: bytes forwarded so far, to the worker and from it.
        connections: how many were accepted.
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
        self.target = target
        self.up = self.down = self.connections = 0
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
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._ending = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            try:
                server = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                client.close()
                continue
            self._open += [client, server]
            is_silent = threading.Event()
            for source, sink, way in ((client, server, "up"), (server, client, "down")):
                threading.Thread(target=self._forward, args=(source, sink, way, is_silent), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket, way: str, is_silent: threading.Event) -> None:
        with suppress(OSError):
            while piece := source.recv(65536):
                setattr(self, way, getattr(self, way) + len(piece))
                limit = getattr(self, f"break_after_{way}")
                if limit is not None and getattr(self, way) > limit:
                    setattr(self, f"break_after_{way}", None)
                    sink.sendall(piece[: len(piece) - (getattr(self, way) - limit)])
                    break
                if way == "up" and self.stall_after_up is not None and self.up > self.stall_after_up:
                    self.stall_after_up = None
                    self.hung += 1
                    self._ending.wait()
                limit = getattr(self, f"silent_after_{way}")
                if limit is not None and getattr(self, way) > limit:
                    setattr(self, f"silent_after_{way}", None)
                    self._hang(is_silent)
                if self.silent:
                    self._hang(is_silent)
                if is_silent.is_set():  # a tunnel that hung forgets what went into it
                    continue
                limit = getattr(self, f"alter_after_{way}")
                if limit is not None and getattr(self, way) > limit:
                    setattr(self, f"alter_after_{way}", None)
                    piece = piece[:-1] + bytes([piece[-1] ^ 1])
                if self.rate is not None:
                    sleep(len(piece) / self.rate)
                sink.sendall(piece)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _hang(self, is_silent: threading.Event) -> None:
        if not is_silent.is_set():
            is_silent.set()
            self.hung += 1

    def start_again(self) -> None:
        """Close all connections and let new ones pass, as a tunnel does that is started again."""
        self.silent = False
        for end in self._open:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> BreakingProxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        self._listener.close()
        for end in self._open:
            end.close()
