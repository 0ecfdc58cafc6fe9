"""The places of heads in what passes over a connection: of HTTP messages, and of frames once it is a WebSocket."""

from __future__ import annotations

import re

_HTTP = {"up": re.compile(rb"(?:POST|GET) /"), "down": re.compile(rb"HTTP/1\.1 ")}
_UPGRADED = re.compile(rb"HTTP/1\.1 101 .*?\r\n\r\n", re.DOTALL)
_END = b"\r\n\r\n"
_LONG = {126: 2, 127: 8}  # bytes of the length, by what stands in its place (RFC 6455, 5.2)


class Heads:
    """The heads of one connection. A WebSocket's client sends no frame before the server's answer has passed."""

    def __init__(self) -> None:
        self._is_websocket = False
        self._frames: dict[str, _Frames] = {"up": _Frames(), "down": _Frames()}

    def found(self, piece: bytes, way: str) -> list[tuple[int, int]]:
        """Return where in `piece`, the next bytes of that way, heads begin, and how much of each is in it."""
        if self._is_websocket:
            return self._frames[way].found(piece, 0)
        heads = []
        for match in _HTTP[way].finditer(piece):
            end = piece.find(_END, match.start())
            heads.append((match.start(), (len(piece) if end < 0 else end + len(_END)) - match.start()))
        upgraded = _UPGRADED.search(piece) if way == "down" else None
        if upgraded:
            self._is_websocket = True
            heads = heads[:1] + self._frames[way].found(piece, upgraded.end())
        return heads


class _Frames:
    """The frames of one way."""

    def __init__(self) -> None:
        self._begun = b""  # a head of which not all has come
        self._payload = 0  # bytes that are still to come before the next head

    def found(self, piece: bytes, at: int) -> list[tuple[int, int]]:
        heads = []
        while at < len(piece):
            if self._payload:
                passed = min(self._payload, len(piece) - at)
                self._payload -= passed
                at += passed
                continue
            is_new, have = not self._begun, len(self._begun)
            head = self._begun + piece[at : at + 14 - have]
            size = _head_size(head)
            if size is None or len(head) < size:
                self._begun = head
                heads += [(at, len(piece) - at)] if is_new else []
                break
            self._begun, self._payload = b"", _payload_size(head)
            heads += [(at, size)] if is_new else []
            at += size - have
        return heads


def _head_size(head: bytes) -> int | None:
    if len(head) < 2:
        return None
    return 2 + _LONG.get(head[1] & 127, 0) + (4 if head[1] & 128 else 0)


def _payload_size(head: bytes) -> int:
    short = head[1] & 127
    return int.from_bytes(head[2 : 2 + _LONG[short]], "big") if short in _LONG else short
