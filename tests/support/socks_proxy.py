"""A SOCKS proxy of versions 4, 4a and 5 (RFC 1928, RFC 1929), as `ssh -D`, Tor and companies have them."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from typing import BinaryIO

from .connect_proxy import ConnectProxy

_GRANTED_4, _REJECTED_4, _OTHER_USER_4 = 90, 91, 93
_NOT_ALLOWED = 2


class SocksProxy(ConnectProxy):
    """Connects whoever asks to a port of this machine, whatever host they name.

    Args:
        routes: by `host:port` as asked for, the port that is meant; anything else gets `refusal`.
        login: `user:password` that must be shown, if any; version 4 has the user alone.
        refusal: the reply of version 5.

    Attributes:
        asked: each target that was asked for, in turn.
    """

    def __init__(self, routes: dict[str, int], *, login: str = "", refusal: int = _NOT_ALLOWED) -> None:
        super().__init__(routes, login=login, refusal=refusal)

    def url(self, login: str = "", kind: str = "socks5h") -> str:
        """Return its address, as HTTPS_PROXY has it."""
        return super().url(login).replace("http", kind, 1)

    def _agreed(self, near: socket.socket) -> str | None:
        with near.makefile("rb") as reading:
            client = _Client(near, reading)
            return self._agreed_4(client) if client.number(1) == 4 else self._agreed_5(client)

    def _agreed_4(self, client: _Client) -> str | None:
        command, port, host = client.number(1), client.number(2), str(ipaddress.IPv4Address(client.bytes(4)))
        user = client.text()
        if host.startswith("0.0.0.") and host != "0.0.0.0":
            host = client.text()
        target = f"{host}:{port}"
        self.asked.append(target)
        reply = _GRANTED_4 if command == 1 and target in self._routes else _REJECTED_4
        if self._login and user != self._login.split(":", maxsplit=1)[0]:
            reply = _OTHER_USER_4
        client.near.sendall(bytes([0, reply]) + bytes(6))
        return target if reply == _GRANTED_4 else None

    def _agreed_5(self, client: _Client) -> str | None:
        if not self._is_let_in(client, client.bytes(client.number(1))):
            return None
        version, command, _, kind = client.bytes(4)
        if kind == 1:
            host = str(ipaddress.IPv4Address(client.bytes(4)))
        elif kind == 4:
            host = f"[{ipaddress.IPv6Address(client.bytes(16))}]"
        else:
            host = client.bytes(client.number(1)).decode("ascii")
        target = f"{host}:{client.number(2)}"
        self.asked.append(target)
        is_agreed = (version, command) == (5, 1) and target in self._routes
        client.near.sendall(bytes([5, 0 if is_agreed else self._refusal, 0, 3, 4]) + b"here" + bytes(2))
        return target if is_agreed else None

    def _is_let_in(self, client: _Client, offered: bytes) -> bool:
        wanted = 2 if self._login else 0
        client.near.sendall(bytes([5, wanted if wanted in offered else 255]))
        if wanted not in offered:
            return False
        if not self._login:
            return True
        _, user, password = client.number(1), client.bytes(client.number(1)), client.bytes(client.number(1))
        is_known = f"{user.decode()}:{password.decode()}" == self._login
        client.near.sendall(bytes([1, 0 if is_known else 1]))
        return is_known


@dataclass(frozen=True)
class _Client:
    near: socket.socket
    reading: BinaryIO

    def bytes(self, count: int) -> bytes:
        data = self.reading.read(count)
        if len(data) < count:
            raise OSError("the client left")
        return data

    def number(self, count: int) -> int:
        return int.from_bytes(self.bytes(count), "big")

    def text(self) -> str:
        text = b""
        while (byte := self.bytes(1)) != b"\0":
            text += byte
        return text.decode("ascii")
