"""Reads HTTP/1.1 requests from a blocking socket (RFC 9112): strictly, and bodies into the caller's own buffers.

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
    """Not a request, or one this server does not take. The connection cannot be used any further.

    Attributes:
        status: what to answer.
    """

    def __init__(self, status: HTTPStatus, detail: str) -> None:
        super().__init__(detail)
        self.status = status


class DisconnectedError(Exception):
    """The client closed the connection in the middle of a request."""


class Body:
    """A request's body, read as it comes. `length`: in bytes, or None where the client does not say beforehand."""

    __slots__ = ("_ended", "_expected", "_left", "_source", "length")

    def __init__(self, source: Source, length: int | None, *, expected: bool = False) -> None:
        self.length = length
        self._source = source
        self._expected = expected
        self._left = 0 if length is None else length
        self._ended = length == 0

    @property
    def ended(self) -> bool:
        """Whether all of it has been read."""
        return self._ended

    def read_into(self, view: memoryview) -> int:
        """Fills `view`, or less where the body ends before; says how much.

        Raises:
            BadRequestError: malformed chunks.
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
            raise BadRequestError(HTTPStatus.BAD_REQUEST, "a chunk's length is malformed")
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
    """A request whose body is still to be read. Header names are in lower case; `path` has no query.

    `connection`: the one that it came by.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: Body
    keep_alive: bool
    is_http_1_1: bool
    connection: Connection


class Source:
    """A socket with what was received and not used yet, in `_buffer[_start:_end]`."""

    def __init__(self, sock: socket.socket, connection: Connection) -> None:
        self.sock = sock
        self._connection = connection
        self._buffer = bytearray(_RECEIVE_BYTES)
        self._start = 0
        self._end = 0
        # The calls of one run have the same head, byte for byte.
        self._last: tuple[bytes, _Head] | None = None

    def wait(self, idle_s: float) -> bool:
        """Waits for a request to begin; False when the client closed the connection, or `idle_s` are over.

        In slices of the socket's own timeout, which setting anew would cost a system call a request.
        """
        deadline = monotonic() + idle_s
        while not self._has_begun():
            self._start = self._end = 0
            if monotonic() >= deadline:  # whatever came meanwhile: empty lines are no request
                return False
            try:
                self._end = self.sock.recv_into(self._buffer)
            except TimeoutError:
                continue
            if self._end == 0:
                return False
        return True

    def _has_begun(self) -> bool:
        # Empty lines keep the connection warm, and may come before any request: RFC 9112, 2.2.
        while self._start < self._end and self._buffer[self._start] in _LINE_END:
            self._start += 1
        return self._start < self._end

    def request(self) -> Request:
        """The next request's head, once one has begun.

        Raises:
            BadRequestError: no request, or one with a head of over 64 KB.
            DisconnectedError: it ended in the middle of a head.
            OSError: as sockets do, TimeoutError among them.
        """
        if not _CAPITALS[0] <= self._buffer[self._start] <= _CAPITALS[-1]:
            # At once: who begins with TLS sends no such end, and would wait for an answer in vain.
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
        """At least one byte, at most `len(view)`.

        Raises:
            DisconnectedError: no more will come.
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
        """The bytes before the next line end, which is passed over."""
        return self._until(b"\r\n", most)

    def _until(self, mark: bytes, most: int) -> bytes:
        """The bytes before `mark`, `most` at most, which may take as long as one of the socket's own waits."""
        deadline: float | None = None
        while (found := self._buffer.find(mark, self._start, self._end)) < 0 and self._end - self._start <= most:
            if deadline is None:  # the usual head comes whole
                deadline = monotonic() + (self.sock.gettimeout() or math.inf)
            elif monotonic() > deadline:
                raise TimeoutError
            self._receive()
        if found < 0 or found - self._start > most:
            raise BadRequestError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"over {most} bytes")
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
        # A folded line has no name: RFC 9112, 5.2 has servers refuse it.
        if not colon or not _TOKEN.fullmatch(name):
            raise BadRequestError(HTTPStatus.BAD_REQUEST, "a header is malformed")
        key = name.lower()
        if key == "host" and key in headers:
            raise BadRequestError(HTTPStatus.BAD_REQUEST, "two hosts")
        headers[key] = f"{headers[key]}, {value.strip()}" if key in headers else value.strip()
    return headers


def _length(headers: Mapping[str, str]) -> int | None:
    """The body's length in bytes, or None where it comes in chunks."""
    coding, length = headers.get("transfer-encoding"), headers.get("content-length")
    if coding is not None:
        # Both together is how requests are smuggled past a proxy that reads the other one: RFC 9112, 6.3.
        if length is not None:
            raise BadRequestError(HTTPStatus.BAD_REQUEST, "both a length and a transfer encoding")
        if coding.lower() != "chunked":
            raise BadRequestError(HTTPStatus.NOT_IMPLEMENTED, "a transfer encoding other than chunked")
        return None
    if length is None:
        return 0
    if not (length.isascii() and length.isdigit() and len(length) <= 15):
        raise BadRequestError(HTTPStatus.BAD_REQUEST, "the length is no number")
    return int(length)
