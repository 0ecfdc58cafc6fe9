"""A reader of HTTP/1.1 messages from a connection: heads by way of a buffer, bodies into the caller's memory.

Nothing of a body is read before it is asked for, so that a message can be refused by its head alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from http import HTTPStatus
from time import monotonic

from ..errors import ConnectionLostError
from .http_heads import MAX_HEAD_BYTES, BadHttpError, RequestHead, ResponseHead, request_head, response_head

_HEAD_END, _LINE_END = b"\r\n\r\n", b"\r\n"
_MAX_CHUNK_LINE_BYTES = 256
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[ -~\t]*)?")
# More than any body has, for one that ends with its connection.
_ENDLESS = 2**62


class DisconnectedError(ConnectionLostError):
    """The other side closed the connection in the middle of a message, or before one."""


class HttpReader:
    """The bytes that came on a connection and are not used yet: `_buffer[_start:_end]`.

    Args:
        receive_into: receives at least one byte from the connection; 0 at its end.
        patience_s: returns the seconds within which a head or a line must come whole; None if `receive_into`
            sees to that itself.
    """

    def __init__(
        self,
        receive_into: Callable[[memoryview], int],
        buffer_bytes: int = 4 * 1024,
        patience_s: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._receive_into = receive_into
        self._patience_s = patience_s
        self._buffer_bytes = buffer_bytes
        self._buffer = bytearray(buffer_bytes)
        self._start = 0
        self._end = 0

    def request_head(self) -> RequestHead:
        """Read the head of a request.

        Raises:
            BadHttpError: it is malformed, or takes over 64 KB.
            DisconnectedError: the connection ended before the head did.
            TimeoutError: it did not come in time.
            Whatever `receive_into` raises.
        """
        return request_head(self._until(_HEAD_END, MAX_HEAD_BYTES))

    def response_head(self) -> ResponseHead:
        """Read the head of a response, which may be an interim one. Raises as `request_head`."""
        return response_head(self._until(_HEAD_END, MAX_HEAD_BYTES))

    def line(self, most: int) -> bytes:
        """Read a line of at most `most` bytes; return it without its end. Raises as `request_head`."""
        line = self._until(_LINE_END, most)
        if b"\n" in line or b"\r" in line:
            raise BadHttpError("a line ends in a bare LF or CR")
        return line

    def some_into(self, view: memoryview) -> int:
        """Read at least one byte into `view`; return the number of bytes, 0 at the connection's end alone."""
        count = min(self._end - self._start, len(view))
        if not count:
            return self._receive_into(view)
        view[:count] = memoryview(self._buffer)[self._start : self._start + count]
        self._start += count
        return count

    def first_byte(self) -> int | None:
        """Return the first byte that is not used yet, without using it; None if all are used."""
        return self._buffer[self._start] if self._start < self._end else None

    def skip_empty_lines(self) -> None:
        """Use up line ends, which may come before any request (RFC 9112, 2.2)."""
        while self.first_byte() in {13, 10}:
            self._start += 1

    def receive(self) -> bool:
        """Receive more bytes into the buffer; return False at the connection's end."""
        if self._start == self._end:
            self._start = self._end = 0
        elif self._end == len(self._buffer):
            self._buffer = self._buffer[self._start :] + bytes(self._buffer_bytes)
            self._start, self._end = 0, self._end - self._start
        count = self._receive_into(memoryview(self._buffer)[self._end :])
        self._end += count
        return count > 0

    def leftover(self) -> bytes:
        """Return the bytes that were received and are not used yet, and use them up.

        After an upgrade they belong to the protocol that the connection was upgraded to.
        """
        left = bytes(memoryview(self._buffer)[self._start : self._end])
        self._start = self._end
        return left

    def _until(self, mark: bytes, most: int) -> bytes:
        """Return the bytes before `mark`, `most` at most; use them and the mark up."""
        deadline: float | None = None
        while (found := self._buffer.find(mark, self._start, self._end)) < 0 and self._end - self._start <= most:
            if deadline is None:  # not before it is needed: the usual head comes whole
                deadline = monotonic() + (self._patience_s() or math.inf)
            elif monotonic() > deadline:
                raise TimeoutError
            if not self.receive():
                raise DisconnectedError("the connection was closed before the whole of a message came")
        if found < 0 or found - self._start > most:
            text = f"the head, or a line of it, takes over {most} bytes"
            raise BadHttpError(text, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        piece = bytes(memoryview(self._buffer)[self._start : found])
        self._start = found + len(mark)
        return piece


class Body:
    """The body of a message, read as it comes.

    Attributes:
        length: in bytes; None if that is not known before it ends.
        ended: whether all of it has been read.
    """

    __slots__ = ("_before", "_is_chunked", "_left", "_reader", "ended", "length")

    def __init__(
        self,
        reader: HttpReader,
        length: int | None,
        *,
        is_chunked: bool,
        before: Callable[[], None] | None = None,
    ) -> None:
        """Make the body that comes next on `reader`.

        Args:
            length: in bytes; None if it comes in chunks, or ends with the connection.
            before: called once, before the first byte is read.
        """
        self.length = length
        self.ended = length == 0
        self._reader = reader
        self._is_chunked = is_chunked
        self._left = 0 if is_chunked else _ENDLESS if length is None else length
        self._before = before

    def read_into(self, view: memoryview) -> int:
        """Fill `view`, or less if the body ends before; return the number of bytes.

        Raises:
            BadHttpError: a chunk is malformed.
            DisconnectedError: the connection ended before the body did.
            Whatever the reader's connection raises.
        """
        if self._before is not None:
            self._before()
            self._before = None
        filled = 0
        while filled < len(view) and not self.ended:
            if not self._left:  # between two chunks
                self._begin_chunk()
                continue
            count = self._reader.some_into(view[filled : filled + self._left])
            if not count:
                self._end_with_connection()
                break
            filled += count
            self._left -= count
            if not self._left:
                self._end_piece()
        return filled

    def _begin_chunk(self) -> None:
        match = _CHUNK_SIZE.fullmatch(self._reader.line(_MAX_CHUNK_LINE_BYTES))
        if match is None:
            raise BadHttpError("the length of a chunk is malformed")
        self._left = int(match[1], 16)
        if not self._left:
            self._skip_trailers()
            self.ended = True

    def _skip_trailers(self) -> None:
        left = MAX_HEAD_BYTES
        while line := self._reader.line(left):
            left = max(0, left - len(line))

    def _end_piece(self) -> None:
        if not self._is_chunked:
            self.ended = True
        elif self._reader.line(_MAX_CHUNK_LINE_BYTES):
            raise BadHttpError("a chunk is longer than it says")

    def _end_with_connection(self) -> None:
        if self._is_chunked or self.length is not None:
            raise DisconnectedError("the connection was closed in the middle of a message")
        self.ended = True
