"""Reads an HTTP/1.1 response from a polled socket (RFC 9112), its body into one buffer.

http.client parses headers as an e-mail's, which costs more than everything else a small call does; all that is
needed here is the status, three headers and the body.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from ..errors import ConnectionLostError
from ..io.buffers import allocate
from .polled import PolledSocket

# aiohttp and nginx allow 8 KB a line; a whole head beyond this is no server's of ours.
_MAX_HEAD_BYTES = 64 * 1024
_FIRST_HEAD_BYTES = 4 * 1024
_HEAD_END = b"\r\n\r\n"


@dataclass(frozen=True)
class Response:
    """A complete response. Header names are lower case; `media_type` too, and without parameters."""

    status: int
    headers: Mapping[str, str]
    media_type: str
    body: memoryview
    kept_alive: bool


def read_response(polled: PolledSocket, max_body_bytes: int) -> Response:
    """The next response on the connection.

    Raises:
        ConnectionLostError: it ended early, is not HTTP, or is larger than allowed.
        What `polled` raises.
    """
    reader = _Reader(polled, max_body_bytes)
    status, headers = reader.head()
    if status in {204, 304}:
        body = memoryview(bytearray())
    elif "chunked" in headers.get("transfer-encoding", "").lower():
        body = reader.chunked_body()
    elif "content-length" in headers:
        body = reader.body(_length(headers["content-length"]))
    else:
        body = reader.body_to_end()
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    kept_alive = (
        headers.get("connection", "").lower() != "close" and not reader.has_ended and not reader.has_surplus
    )
    return Response(status, headers, media_type, body, kept_alive)


def _length(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ConnectionLostError("the reply's length is no number")
    return int(text)


class _Reader:
    """What has been received and not used yet lies in `_buffer[_start:_end]`."""

    def __init__(self, polled: PolledSocket, max_body_bytes: int) -> None:
        self._polled = polled
        self._max_body_bytes = max_body_bytes
        self._buffer = bytearray(_FIRST_HEAD_BYTES)
        self._start = 0
        self._end = 0
        self.has_ended = False

    @property
    def has_surplus(self) -> bool:
        return self._start < self._end

    def head(self) -> tuple[int, Mapping[str, str]]:
        """Status and headers, names in lower case; of interim (1xx) responses only the final one's."""
        while True:
            status, headers = _parsed(self._until(_HEAD_END))
            if status >= 200:
                return status, headers

    def body(self, size: int) -> memoryview:
        if size > self._max_body_bytes:
            raise ConnectionLostError(f"the reply claims {size} bytes, over the {self._max_body_bytes} allowed")
        body = allocate(size)
        self._fill(body)
        return body

    def chunked_body(self) -> memoryview:
        whole = bytearray()
        while True:
            try:
                size = int(self._until(b"\r\n").partition(b";")[0], 16)
            except ValueError:
                raise ConnectionLostError("the reply's chunks are malformed") from None
            if size < 0 or len(whole) + size > self._max_body_bytes:
                raise ConnectionLostError(f"the reply is larger than the {self._max_body_bytes} bytes allowed")
            if size == 0:
                break
            piece = bytearray(size + 2)
            self._fill(memoryview(piece))
            whole += memoryview(piece)[:size]
        while self._until(b"\r\n"):
            pass  # trailers
        return memoryview(whole)

    def body_to_end(self) -> memoryview:
        whole = bytearray(memoryview(self._buffer)[self._start : self._end])
        self._start = self._end
        self.has_ended = True
        view = memoryview(self._buffer)
        while count := self._polled.receive_into(view):
            whole += view[:count]
            if len(whole) > self._max_body_bytes:
                raise ConnectionLostError(f"the reply is larger than the {self._max_body_bytes} bytes allowed")
        return memoryview(whole)

    def _fill(self, target: memoryview) -> None:
        have = min(len(target), self._end - self._start)
        target[:have] = memoryview(self._buffer)[self._start : self._start + have]
        self._start += have
        while have < len(target):
            count = self._polled.receive_into(target[have:])
            if not count:
                raise ConnectionLostError(f"the reply ended after {have} of {len(target)} bytes")
            have += count

    def _until(self, mark: bytes) -> bytes:
        """The bytes before `mark`, which is passed over."""
        while (found := self._buffer.find(mark, self._start, self._end)) < 0:
            self._receive()
        piece = bytes(memoryview(self._buffer)[self._start : found])
        self._start = found + len(mark)
        return piece

    def _receive(self) -> None:
        if self._end == len(self._buffer):
            self._buffer = self._buffer[self._start :]
            self._start, self._end = 0, len(self._buffer)
            if self._end >= _MAX_HEAD_BYTES:
                raise ConnectionLostError("the reply's head is larger than any server's")
            self._buffer += bytes(max(_FIRST_HEAD_BYTES, self._end))
        count = self._polled.receive_into(memoryview(self._buffer)[self._end :])
        if not count:
            raise ConnectionLostError("the connection was closed before a reply came")
        self._end += count


@lru_cache(maxsize=32)  # the replies of one run have the same head, byte for byte
def _parsed(head: bytes) -> tuple[int, Mapping[str, str]]:
    lines = head.decode("latin-1").split("\r\n")
    version, _, rest = lines[0].partition(" ")
    if not version.startswith("HTTP/1.") or not rest[:3].isdigit():
        raise ConnectionLostError("the reply is not HTTP/1.1")
    pairs = (line.partition(":") for line in lines[1:])
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    if version == "HTTP/1.0":
        headers.setdefault("connection", "close")
    return int(rest[:3]), headers
