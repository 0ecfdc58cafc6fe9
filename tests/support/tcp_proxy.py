"""A TCP proxy on this machine, for subclasses that disturb what passes. Benchmarks use it too."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Generic, Literal, Self, TypeVar

Way = Literal["up", "down"]
State = TypeVar("State")

_PIECE_BYTES = 64 * 1024


class TcpProxy(Generic[State]):
    """Forwards connections to `target`, a port of this machine.

    Attributes:
        connections: how many were accepted.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.connections = 0
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    def _new_state(self) -> State:
        """Return what is to be known of a new connection."""
        raise NotImplementedError

    def _passed(self, piece: bytes, way: Way, connection: State) -> tuple[bytes, bool]:
        """Return what is to be sent in place of `piece`, and whether the connection goes on.

        It is called by a thread for each connection and way.
        """
        raise NotImplementedError

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def end_connections(self) -> None:
        """Close all connections; new ones pass."""
        for end in self._open:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()
        for end in self._open:
            end_of(end)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

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
            state = self._new_state()
            ways: tuple[tuple[socket.socket, socket.socket, Way], ...] = (
                (client, server, "up"),
                (server, client, "down"),
            )
            for source, sink, way in ways:
                threading.Thread(target=self._forward, args=(source, sink, way, state), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket, way: Way, state: State) -> None:
        with suppress(OSError):
            while piece := source.recv(_PIECE_BYTES):
                passed, goes_on = self._passed(piece, way, state)
                sink.sendall(passed)
                if not goes_on:
                    break
        end_of(source)
        end_of(sink)


def forward(source: socket.socket, sink: socket.socket) -> None:
    """Send on all that comes from `source`, and end both."""
    with suppress(OSError):
        while piece := source.recv(_PIECE_BYTES):
            sink.sendall(piece)
    end_of(source)
    end_of(sink)


def end_of(end: socket.socket) -> None:
    """End a socket, whoever is waiting on it."""
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
