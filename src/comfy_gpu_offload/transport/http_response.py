"""A reader of HTTP/1.1 responses (RFC 9112) from a polled socket, bodies into one buffer.

http.client parses headers as an e-mail's, which costs more than everything else a small call does; all that is
needed here is the status, three headers and the body.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import NamedTuple

from ..errors import ConnectionLostError
from ..io.buffers import allocate
from .interruptible_socket import PolledSocket

# aiohttp and nginx allow 8 KB a line; a longer head comes from no server that we know.
_MAX_HEAD_BYTES = 64 * 1024
_FIRST_HEAD_BYTES = 4 * 1024
_HEAD_END = b"\r\n\r\n"

# Called with the headers of an interim (1xx) response.
OnInterim = Callable[[Mapping[str, str]], None]
# RFC 9112, 4 and 5: a reply that was altered on its way must not be taken for another one.
_STATUS_LINE = re.compile(r"HTTP/1\.([01]) ([1-5][0-9]{2})(?: [^\x00\r\n]*)?")
_FIELD = re.compile(r"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):([^\x00\r\n]*)")
_ONCE = frozenset({"content-length", "transfer-encoding"})


class Response(NamedTuple):
    """A complete response. Header names are lower case; `media_type` too, and without parameters."""

    status: int
    headers: Mapping[str, str]
    media_type: str
    body: memoryview
    kept_alive: bool


def read_response(polled: PolledSocket, max_body_bytes: int, on_interim: OnInterim = lambda _: None) -> Response:
    """Return the next response on the connection; `on_interim` is given the headers of those before it.

    Raises:
        ConnectionLostError: it ended early, is not HTTP, or is larger than allowed.
        What `polled` raises.
    """
    reader = _Reader(polled, max_body_bytes)
    status, headers = reader.head(on_interim)
    if status in {204, 304}:
        body = memoryview(bytearray())
    elif "chunked" in headers.get("transfer-encoding", "").lower():
        body = reader.chunked_body()
    elif "content-length" in headers:
        body = reader.body(_length(headers["content-length"]))
    else:
        body = reader.body_to_end()
    media_type = _media_type(headers)
    kept_alive = not _closes(headers) and not reader.has_ended and not reader.has_surplus
    return Response(status, headers, media_type, body, kept_alive)


class StreamedResponse:
    """A response that is read piece by piece. `kept_alive` once it `has_ended`."""

    def __init__(self, polled: PolledSocket, max_body_bytes: int) -> None:
        """Read the head.

        Raises:
            ConnectionLostError: it ended early, or is not HTTP.
            What `polled` raises.
        """
        self._reader = _Reader(polled, max_body_bytes)
        self.status, self.headers = self._reader.head()
        self._chunked = "chunked" in self.headers.get("transfer-encoding", "").lower()
        length = self.headers.get("content-length")
        self._left = 0 if self._chunked else _length(length) if length is not None else 2**62
        self.has_ended = self._left == 0 and not self._chunked

    @property
    def media_type(self) -> str:
        """The media type, in lower case and without parameters."""
        return _media_type(self.headers)

    @property
    def kept_alive(self) -> bool:
        """True if the connection can be used again."""
        return self.has_ended and not _closes(self.headers)

    def read_into(self, view: memoryview) -> int:
        """Fill `view`, or less of it if the body ends before; return how many bytes."""
        filled = 0
        while filled < len(view) and not self.has_ended:
            if self._left == 0:
                self._begin_chunk()
                continue
            count = self._reader.some_into(view[filled : filled + self._left])
            if not count and self._left > 2**61:  # until the connection ends
                self.has_ended = True
                break
            if not count:
                raise ConnectionLostError("the reply ended in the middle")
            filled += count
            self._left -= count
            if self._left == 0:
                self._end_piece()
        return filled

    def _begin_chunk(self) -> None:
        self._left = self._reader.chunk_size()
        if self._left == 0:
            self._reader.skip_trailers()
            self.has_ended = True

    def _end_piece(self) -> None:
        if self._chunked:
            self._reader.end_chunk()
        else:
            self.has_ended = True


def _closes(headers: Mapping[str, str]) -> bool:
    options = headers.get("connection", "").lower()
    return "close" in options and "close" in [option.strip() for option in options.split(",")]


def _media_type(headers: Mapping[str, str]) -> str:
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def _length(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ConnectionLostError("the reply's length is no number")
    return int(text)


class _Reader:
    """A reader of one response. Bytes that are received and not used yet lie in `_buffer[_start:_end]`."""

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

    def head(self, on_interim: OnInterim = lambda _: None) -> tuple[int, Mapping[str, str]]:
        """Return the final response's status and headers, names in lower case."""
        while True:
            status, headers = _parsed(self._until(_HEAD_END))
            if status >= 200:
                return status, headers
            if headers:
                on_interim(headers)

    def body(self, size: int) -> memoryview:
        if size > self._max_body_bytes:
            raise ConnectionLostError(f"the reply claims {size} bytes, over the {self._max_body_bytes} allowed")
        body = allocate(size)
        self._fill(body)
        return body

    def chunked_body(self) -> memoryview:
        whole = bytearray()
        while size := self.chunk_size():
            if len(whole) + size > self._max_body_bytes:
                raise ConnectionLostError(f"the reply is larger than the {self._max_body_bytes} bytes allowed")
            piece = bytearray(size)
            self._fill(memoryview(piece))
            self.end_chunk()
            whole += piece
        self.skip_trailers()
        return memoryview(whole)

    def chunk_size(self) -> int:
        """Return the next chunk's size in bytes, 0 after the last one."""
        text = self._until(b"\r\n").partition(b";")[0].strip()
        if not text or text.strip(b"0123456789abcdefABCDEF") or int(text, 16) > self._max_body_bytes:
            raise ConnectionLostError("the reply's chunks are malformed, or larger than allowed")
        return int(text, 16)

    def end_chunk(self) -> None:
        """Skip a chunk's end."""
        if self._until(b"\r\n"):
            raise ConnectionLostError("the reply's chunks are malformed")

    def skip_trailers(self) -> None:
        """Skip the fields that may follow the last chunk."""
        while self._until(b"\r\n"):
            pass

    def some_into(self, target: memoryview) -> int:
        """Fill some of `target`; return how many bytes, 0 at the connection's end alone."""
        if self.has_surplus:
            count = min(len(target), self._end - self._start)
            target[:count] = memoryview(self._buffer)[self._start : self._start + count]
            self._start += count
            return count
        return self._polled.receive_into(target)

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
        """Return the bytes before `mark`, and skip that."""
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
    status = _STATUS_LINE.fullmatch(lines[0])
    if status is None:
        raise ConnectionLostError("the reply is not HTTP/1.1")
    headers: dict[str, str] = {}
    for line in lines[1:]:
        field = _FIELD.fullmatch(line)
        name = "" if field is None else field[1].lower()
        if field is None or (name in _ONCE and name in headers):
            raise ConnectionLostError("the reply's head is malformed: it was altered on the way")
        headers[name] = field[2].strip()
    if status[1] == "0":
        headers.setdefault("connection", "close")
    return int(status[2]), headers
