"""A TCP link on which one thing goes wrong at a chosen place: a cut, a flipped bit, a damaged head, silence."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from types import TracebackType
from typing import Literal

Kind = Literal["kill", "cut", "flip", "head", "silence"]

_HEADS = {"up": b"POST /", "down": b"HTTP/1.1 "}
_HEAD_BYTES = 300
_PIECE_BYTES = 64 * 1024


@dataclass(frozen=True)
class Fault:
    """A fault that happens once.

    Attributes:
        at: which byte it strikes, counted over both ways from when it was armed; for `head`, which HTTP head.
        seed: of what is made of that byte or head.
    """

    kind: Kind
    at: int
    seed: int = 0


class FaultyLink:
    """Forwards to `target`, a port of this machine.

    Attributes:
        bytes, heads: how many have passed since `arm`, both ways.
        struck: whether the fault has.
    """

    def __init__(self, target: int, kill: Callable[[], None] = lambda: None) -> None:
        """`kill` is what the fault of that kind calls."""
        self._target = target
        self._kill = kill
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self.arm(None)
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def arm(self, fault: Fault | None) -> None:
        """Count from 0, with that fault to come."""
        with self._lock:
            self._fault = fault
            self.bytes = self.heads = 0
            self.struck = False

    def close(self) -> None:
        self._listener.close()
        for end in self._open:
            _end(end)

    def __enter__(self) -> FaultyLink:
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
            try:
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                client.close()
                continue
            self._open += [client, server]
            silent = threading.Event()
            for source, sink, way in ((client, server, "up"), (server, client, "down")):
                threading.Thread(target=self._forward, args=(source, sink, way, silent), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket, way: str, silent: threading.Event) -> None:
        with suppress(OSError):
            while piece := source.recv(_PIECE_BYTES):
                passed, goes_on = self._passed(piece, way, silent)
                if passed and not silent.is_set():
                    sink.sendall(passed)
                if not goes_on:
                    break
        _end(source)
        _end(sink)

    def _passed(self, piece: bytes, way: str, silent: threading.Event) -> tuple[bytes, bool]:
        """Return what is to be sent in place of `piece`, and whether the connection goes on."""
        with self._lock:
            fault, before = (
                self._fault,
                self.bytes if self._fault is None or self._fault.kind != "head" else self.heads,
            )
            self.bytes += len(piece)
            heads = _heads_in(piece, way)
            self.heads += len(heads)
            after = self.heads if fault is not None and fault.kind == "head" else self.bytes
            if fault is None or self.struck or not before <= fault.at < after:
                return piece, True
            self.struck = True
        if fault.kind == "head":
            return _damaged(piece, heads[fault.at - before], Random(fault.seed)), True
        return self._strike(fault, piece, fault.at - before, silent)

    def _strike(self, fault: Fault, piece: bytes, at: int, silent: threading.Event) -> tuple[bytes, bool]:
        if fault.kind == "cut":
            return piece[:at], False
        if fault.kind == "flip":
            flipped = piece[at] ^ (1 << Random(fault.seed).randrange(8))
            return piece[:at] + bytes([flipped]) + piece[at + 1 :], True
        if fault.kind == "silence":
            silent.set()
        else:
            self._kill()
        return piece[:at], True


def _heads_in(piece: bytes, way: str) -> list[int]:
    found, at = [], piece.find(_HEADS[way])
    while at >= 0:
        found.append(at)
        at = piece.find(_HEADS[way], at + 1)
    return found


def _damaged(piece: bytes, begin: int, random: Random) -> bytes:
    """Return `piece` with one byte of the head at `begin` flipped in a bit, replaced, left out or doubled."""
    end = piece.find(b"\r\n\r\n", begin)
    length = (end + 4 if end >= 0 else len(piece)) - begin
    at = begin + random.randrange(min(length, _HEAD_BYTES))
    what = random.randrange(4)
    middle = (
        bytes([piece[at] ^ (1 << random.randrange(8))]),
        bytes([(piece[at] + random.randrange(1, 256)) % 256]),
        b"",
        piece[at : at + 1] * 2,
    )[what]
    return piece[:at] + middle + piece[at + 1 :]


def _end(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
