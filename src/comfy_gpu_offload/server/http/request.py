"""HTTP/1.1 requests, read strictly (RFC 9112) from a blocking socket, with bodies into the caller's own buffers.

Nothing of a body is read before the application asks for it, so a request can be refused by its head alone.
"""

from __future__ import annotations

import math
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from time import monotonic
from typing import NamedTuple

from .connections import Connection

_MAX_HEAD_BYTES = 64 * 1024
_RECEIVE_BYTES = 16 * 1024
_MAX_CHUNK_LINE_BYTES = 256
_LINE_END = b"\r\n"
_CAPITALS = b"AZ"
# RFC 9110, 5.6.2.
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_REQUEST_LINE = re.compile(r"([A-Z]{3,16}) (/[!-~]{0,2047}) HTTP/1\.([01])")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[ -~\t]*)?")


class BadRequestError(Exception):
    """The bytes are no request, or one that this server does not take. The connection cannot be used any further.

    Attributes:
        status: to answer with.
    """

    def __init__(self, status: HTTPStatus, detail: str) -> None:
        super().__init__(detail)
        self.status = status


class DisconnectedError(Exception):
    """The client closed the connection in the middle of a request."""


class Body:
    """A request's body, read as it comes. `length`: in bytes; None if it comes in chunks."""

    __slots__ = ("_ended", "_expected", "_left", "_source", "length")

    def __init__(self, source: Source, length: int | None, *, expected: bool = False) -> None:
        self.length = length
        self._source = source
        self._expected = expected
        self._left = 0 if length is None else length
        self._ended = length == 0

    @property
    def ended(self) -> bool:
        """Return whether all of it has been read."""
        return self._ended

    def read_into(self, view: memoryview) -> int:
        """Fill `view`, or less if the body ends before; return the number of bytes.

        Raises:
            BadRequestError: a chunk is malformed.
            DisconnectedError: the connection ended before the body did.
        """
        if self._expected:
            self._source.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._expected = False
        filled = 0
        while filled < len(view) and not self._ended:
            if self._left == 0:  # chunked: between two chunks
                self._begin_chunk()
                continue
            count = self._source.receive_into(view[filled : filled + self._left])
            filled += count
            self._left -= count
            if self._left == 0:
                self._end_piece()
        return filled

    def _begin_chunk(self) -> None:
        match = _CHUNK_SIZE.fullmatch(self._source.line(_MAX_CHUNK_LINE_BYTES))
        if match is None:
            raise BadRequestError(HTTPStatus.BAD_REQUEST, "the length of a chunk is malformed")
        self._left = int(match[1], 16)
        if self._left == 0:
            while self._source.line(_MAX_HEAD_BYTES):
                pass  # trailers
            self._ended = True

    def _end_piece(self) -> None:
        if self.length is not None:
            self._ended = True
        elif self._source.line(_MAX_CHUNK_LINE_BYTES):
            raise BadRequestError(HTTPStatus.BAD_REQUEST, "a chunk is longer than it says")


class Request(NamedTuple):
    """A request whose body is still to be read. Header names are in lower case; `path` has no query."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Body
    keep_alive: bool
    is_http_1_1: bool
    connection: Connection


class Source:
    """A socket, and the bytes in `_buffer[_start:_end]` that were received from it and are not used yet."""

    def __init__(self, sock: socket.socket, connection: Connection) -> None:
        self.sock = sock
        self._connection = connection
        self._buffer = bytearray(_RECEIVE_BYTES)
        self._start = 0
        self._end = 0
        # All calls of a run have the same head, byte for byte, which is parsed once.
        self._last: tuple[bytes, _Head] | None = None

    def wait(self, idle_s: float) -> bool:
        """Wait for a request to begin; return False if the client closed the connection, or after `idle_s` seconds.

        Waits in slices of the socket's own time-out, since setting another would cost a system call each time.
        """
        deadline = monotonic() + idle_s
        while not self._has_begun():
            self._start = self._end = 0
            if monotonic() >= deadline:  # also while empty lines come, which are no request
                return False
            try:
                self._end = self.sock.recv_into(self._buffer)
            except TimeoutError:
                continue
            if self._end == 0:
                return False
        return True

    def _has_begun(self) -> bool:
        # Empty lines keep the connection warm, and may come before any request (RFC 9112, 2.2).
        while self._start < self._end and self._buffer[self._start] in _LINE_END:
            self._start += 1
        return self._start < self._end

    def request(self) -> Request:
        """Read the head of the request that has begun.

        Raises:
            BadRequestError: it is no request, or its head takes over 64 KB.
            DisconnectedError: the connection ended in the middle of the head.
            OSError: as sockets raise, TimeoutError included.
        """
        if not _CAPITALS[0] <= self._buffer[self._start] <= _CAPITALS[-1]:
            # Refused at once: a client that speaks TLS never sends the end of a head, and would wait in vain.
            raise BadRequestError(HTTPStatus.BAD_REQUEST, "this is no HTTP/1.1 request line")
        text = self._until(b"\r\n\r\n", _MAX_HEAD_BYTES)
        if self._last is None or self._last[0] != text:
            self._last = text, _parsed(text)
        head = self._last[1]
        body = Body(self, head.length, expected=head.expects_continue)
        return Request(
            head.method, head.path, head.headers, body, head.keep_alive, head.is_http_1_1, self._connection
        )

    def receive_into(self, view: memoryview) -> int:
        """Receive at least one byte into `view`; return the number of bytes.

        Raises:
            DisconnectedError: the connection has ended.
        """
        have = self._end - self._start
        if have:
            count = min(have, len(view))
            view[:count] = memoryview(self._buffer)[self._start : self._start + count]
            self._start += count
            return count
        count = self.sock.recv_into(view)
        if not count:
            raise DisconnectedError
        return count

    def line(self, most: int) -> bytes:
        """Return the bytes before the next line end, `most` at most, and skip the line end."""
        return self._until(b"\r\n", most)

    def _until(self, mark: bytes, most: int) -> bytes:
        """Return the bytes before `mark`, `most` at most, within the socket's own time-out; skip the mark."""
        deadline: float | None = None
        while (found := self._buffer.find(mark, self._start, self._end)) < 0 and self._end - self._start <= most:
            if deadline is None:  # not before it is needed: the usual head comes whole
                deadline = monotonic() + (self.sock.gettimeout() or math.inf)
            elif monotonic() > deadline:
                raise TimeoutError
            self._receive()
        if found < 0 or found - self._start > most:
            raise BadRequestError(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"the head, or a line of it, takes over {most} bytes"
            )
        piece = bytes(memoryview(self._buffer)[self._start : found])
        self._start = found + len(mark)
        return piece

    def _receive(self) -> None:
        if self._end == len(self._buffer):
            self._buffer = self._buffer[self._start :] + bytes(_RECEIVE_BYTES)
            self._end -= self._start
            self._start = 0
        count = self.sock.recv_into(memoryview(self._buffer)[self._end :])
        if not count:
            raise DisconnectedError
        self._end += count


@dataclass(frozen=True)
class _Head:
    method: str
    path: str
    headers: Mapping[str, str]
    length: int | None
    keep_alive: bool
    is_http_1_1: bool
    expects_continue: bool


def _parsed(head: bytes) -> _Head:
    try:
        lines = head.decode("ascii").split("\r\n")
    except UnicodeDecodeError:
        raise BadRequestError(HTTPStatus.BAD_REQUEST, "the head is not ASCII") from None
    match = _REQUEST_LINE.fullmatch(lines[0])
    if match is None:
        raise BadRequestError(HTTPStatus.BAD_REQUEST, "this is no HTTP/1.1 request line")
    headers = _headers(lines[1:])
    options = {option.strip().lower() for option in headers.get("connection", "").split(",")}
    is_http_1_1 = match[3] == "1"
    keep_alive = is_http_1_1 and "close" not in options
    expects_continue = headers.get("expect", "").lower() == "100-continue"
    return _Head(
        match[1], match[2].partition("?")[0], headers, _length(headers), keep_alive, is_http_1_1, expects_continue
    )


def _headers(lines: list[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        # This also refuses folded lines, which have no name (RFC 9112, 5.2).
        if not colon or not _TOKEN.fullmatch(name):
            raise BadRequestError(HTTPStatus.BAD_REQUEST, "a header is malformed")
        key = name.lower()
        if key == "host" and key in headers:
            raise BadRequestError(HTTPStatus.BAD_REQUEST, "the request has two Host headers")
        headers[key] = f"{headers[key]}, {value.strip()}" if key in headers else value.strip()
    return headers


def _length(headers: Mapping[str, str]) -> int | None:
    """Return the length of the body in bytes, or None if it comes in chunks."""
    coding, length = headers.get("transfer-encoding"), headers.get("content-length")
    if coding is not None:
        # Requests with both are smuggled past proxies that go by the other one (RFC 9112, 6.3).
        if length is not None:
            raise BadRequestError(
                HTTPStatus.BAD_REQUEST, "the request has both Content-Length and Transfer-Encoding"
            )
        if coding.lower() != "chunked":
            raise BadRequestError(HTTPStatus.NOT_IMPLEMENTED, "the only Transfer-Encoding taken here is chunked")
        return None
    if length is None:
        return 0
    if not (length.isascii() and length.isdigit() and len(length) <= 15):
        raise BadRequestError(HTTPStatus.BAD_REQUEST, "Content-Length is no number")
    return int(length)
