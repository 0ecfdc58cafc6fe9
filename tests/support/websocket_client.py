"""A client of a worker's WebSocket that does what a test says, right or wrong."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from time import monotonic
from types import TracebackType
from typing import Self

from comfy_gpu_offload.io.frame_reader import FrameReader
from comfy_gpu_offload.net.websocket.handshake import Upgrade, upgraded
from comfy_gpu_offload.net.websocket.link import Link
from comfy_gpu_offload.net.websocket.payloads import Buffer
from comfy_gpu_offload.net.websocket.pieces import CONNECTION, PATH, Kind, Piece, payloads, sealed
from comfy_gpu_offload.protocol.envelope import open_frame
from comfy_gpu_offload.protocol.messages import Message

HELLO, FORWARD, CANCEL, SAMPLE = range(1, 5)
PATIENCE_S = 30.0


def upgrade_request(host: str = "127.0.0.1", **headers: str) -> bytes:
    """Return the bytes of an upgrade, with further headers, whose names have `_` in place of `-`."""
    return Upgrade(host, PATH, [(name.replace("_", "-"), value) for name, value in headers.items()]).request


class WebSocketClient:
    """An open WebSocket to a port of this machine.

    Attributes:
        gives_signs: whether signs of life are sent while pieces are awaited.
    """

    def __init__(self, port: int, *, token: str | None = None, tls: ssl.SSLContext | None = None) -> None:
        self.sock: socket.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
        if tls is not None:
            self.sock = tls.wrap_socket(self.sock)
        headers = [] if token is None else [("Authorization", f"Bearer {token}")]
        self.link = Link(self.sock, upgraded(self.sock, Upgrade("127.0.0.1", PATH, headers), PATIENCE_S))
        self._early: list[Piece] = []
        self.gives_signs = True

    def send(self, kind: int, exchange: int = CONNECTION, *payload: Buffer) -> None:
        """Send a piece."""
        self.link.send(sealed(Kind(kind), exchange, *payload), lambda: None)

    def begin(self, exchange: int, frame: bytes | memoryview, route: int = FORWARD) -> None:
        """Begin an exchange with these bytes of its frame."""
        kind = Kind.BEGIN
        for payload in payloads([frame], self.link.piece_size, first=bytes([route])):
            self.send(kind, exchange, *payload)
            kind = Kind.DATA

    def piece(self, fits: Callable[[Piece], bool]) -> Piece:
        """Return the next piece that fits; others stay for later, except signs of life.

        Raises:
            LinkClosedError: the worker closed the connection.
        """
        until = monotonic() + PATIENCE_S
        waiting, self._early = self._early, []
        while True:
            for index, piece in enumerate(waiting):
                if fits(piece):
                    self._early += waiting[index + 1 :]
                    return piece
                if piece.kind is not Kind.WARM:
                    self._early.append(piece)
            assert monotonic() < until, "nothing came"
            self.link.tend(warm=self.gives_signs)
            waiting = [each._replace(payload=memoryview(bytes(each.payload))) for each in self.link.receive(0.1)]

    def reply(self, exchange: int) -> Message:
        """Return the message of the one reply to an exchange."""
        reader, frames = FrameReader(), []
        while True:
            piece = self.piece(lambda each: each.exchange == exchange and each.kind in {Kind.DATA, Kind.END})
            frames += reader.feed(piece.payload)
            if piece.kind is Kind.END:
                (frame,) = frames
                return open_frame(frame).message

    def until_closed(self) -> None:
        """Receive until the connection ends.

        Raises:
            LinkClosedError: it has, as it should.
        """
        self.piece(lambda _: False)

    def close(self) -> None:
        """Vanish without a word."""
        self.link.abandon()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
