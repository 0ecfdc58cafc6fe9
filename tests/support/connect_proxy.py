"""An HTTP proxy that accepts CONNECT, as a company's does."""

from __future__ import annotations

import base64
import socket
import threading
from contextlib import suppress
from types import TracebackType


class ConnectProxy:
    """Connects whoever asks to a port of this machine, whatever host they name.

    Args:
        routes: by `host:port` as asked for, the port that is meant; anything else gets `refusal`.
        login: `user:password` that must be shown, if any.
        challenge: the header Proxy-Authenticate of a refusal without it.
        after: sent by the proxy itself right after it has agreed.

    Attributes:
        asked: each target that was asked for, in turn.
    """

    def __init__(
        self,
        routes: dict[str, int],
        *,
        login: str = "",
        refusal: int = 403,
        challenge: str = 'Basic realm="a, b"',
        after: bytes = b"",
    ) -> None:
        self.asked: list[str] = []
        self._routes, self._refusal, self._login = routes, refusal, login
        self._challenge, self._after = challenge, after
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def url(self, login: str = "") -> str:
        """Return its address, as HTTPS_PROXY has it."""
        return f"http://{login + '@' if login else ''}127.0.0.1:{self.port}"

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(near)
            threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with suppress(OSError):
            target = self._agreed(near)
            if target is not None:
                self._join(near, socket.create_connection(("127.0.0.1", self._routes[target])))
            near.close()

    def _agreed(self, near: socket.socket) -> str | None:
        """Answer a client; return the target that it is to be connected to, or None."""
        head = b""
        while b"\r\n\r\n" not in head:
            piece = near.recv(4096)
            if not piece:
                return None
            head += piece
        lines = head.decode("latin-1").split("\r\n")
        method, target, _ = lines[0].split(" ")
        self.asked.append(target)
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        status = self._status(method, target, headers)
        challenge = f"Proxy-Authenticate: {self._challenge}\r\n" if status == 407 else ""
        answer = f"HTTP/1.1 {status} Whatever\r\n{challenge}\r\n".encode()
        near.sendall(answer + self._after if status == 200 else answer)
        return target if status == 200 else None

    def _status(self, method: str, target: str, headers: dict[str, str]) -> int:
        if method != "CONNECT":
            return 405
        wanted = f"Basic {base64.b64encode(self._login.encode()).decode()}"
        if self._login and headers.get("proxy-authorization") != wanted:
            return 407
        return 200 if target in self._routes else self._refusal

    def _join(self, near: socket.socket, far: socket.socket) -> None:
        self._open.append(far)
        back = threading.Thread(target=_copy, args=(far, near), daemon=True)
        back.start()
        _copy(near, far)
        back.join(30)

    def __enter__(self) -> ConnectProxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()
        for end in self._open:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)  # or a thread that receives on it would hold it open
            end.close()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while piece := source.recv(65536):
            sink.sendall(piece)
    with suppress(OSError):  # also after a reset, which is how a client ends that left bytes unread
        sink.shutdown(socket.SHUT_WR)
