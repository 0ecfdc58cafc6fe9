"""A TCP proxy that answers upgrades itself, as proxies and older workers do that know no WebSockets."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

from tests.support.tcp_proxy import end_of, forward

PAGE = b"<html>no</html>"


def answer_of(status: int) -> bytes:
    """Return an answer with a page, as a proxy gives it."""
    return b"HTTP/1.1 %d Status\r\nContent-Length: %d\r\n\r\n" % (status, len(PAGE)) + PAGE


class RefusingProxy:
    """Forwards connections to `target`, a port of this machine.

    Attributes:
        answer: to upgrades, after which their connection ends; None to forward them.
        hangs: whether the connection of an upgrade is left open after the answer.
        upgrades: how many came.
        requests: how many other connections came.
    """

    def __init__(self, target: int) -> None:
        self.answer: bytes | None = None
        self.hangs = False
        self.upgrades = self.requests = 0
        self._target = target
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near = self._listener.accept()[0]
                self._open.append(near)
                threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head and (piece := near.recv(65536)):
                head += piece
            is_upgrade = b"/v1/connect HTTP" in head
            self.upgrades += is_upgrade
            self.requests += not is_upgrade
            if is_upgrade and self.answer is not None:
                near.sendall(self.answer)
                if not self.hangs:
                    end_of(near)
                return
            far = socket.create_connection(("127.0.0.1", self._target))
            self._open.append(far)
            far.sendall(head)
            threading.Thread(target=forward, args=(far, near), daemon=True).start()
            forward(near, far)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for sock in (self._listener, *self._open):
            end_of(sock)
