"""The heads of HTTP/1.1 requests and responses, parsed by h11 and cached by their bytes.

h11 is lenient where RFC 9112 allows it: in line ends and folded lines. Proxies differ there, so two of them may see
different messages in the same bytes; this module refuses what they could differ in.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from http import HTTPStatus
from types import MappingProxyType
from typing import Final, NamedTuple

import h11

from ..errors import ConnectionLostError

MAX_HEAD_BYTES: Final = 64 * 1024
"""The longest head that is taken. nginx and aiohttp allow 8 KB a line."""

_VERSIONS = {b"1.0", b"1.1"}
# A response is parsed as the answer to this, so one that switches protocols is malformed.
_ASKED = h11.Request(method="GET", target="/", headers=[("Host", "-")])


class BadHttpError(ConnectionLostError):
    """The bytes are no HTTP/1.1 message, or one that is not taken here. The connection cannot be used any further.

    Attributes:
        status: the status with which a server answers.
    """

    def __init__(self, detail: str, status: int = HTTPStatus.BAD_REQUEST) -> None:
        super().__init__(detail)
        self.status = status


class RequestHead(NamedTuple):
    """A request's head. Header names are in lower case; repeated headers are joined by commas.

    Attributes:
        target: the path and the query, beginning with a slash.
        length: of the body in bytes; None if it comes in chunks.
        keep_alive: whether the client means to use the connection again.
        expects_continue: whether the client waits for `100 Continue` before it sends the body.
    """

    method: str
    target: str
    headers: Mapping[str, str]
    length: int | None
    keep_alive: bool
    is_http_1_1: bool
    expects_continue: bool


class ResponseHead(NamedTuple):
    """A response's head. Header names are in lower case; repeated headers are joined by commas.

    Attributes:
        length: of the body in bytes; None if it comes in chunks or ends with the connection.
        is_chunked: whether the body comes in chunks.
        keep_alive: whether the server means to keep the connection open.
    """

    status: int
    headers: Mapping[str, str]
    length: int | None
    is_chunked: bool
    keep_alive: bool

    @property
    def media_type(self) -> str:
        """Return the media type in lower case, without parameters."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


# All calls of a run have the same heads, byte for byte, unless their tensors are compressed. One takes 40 µs.
@lru_cache(maxsize=64)
def request_head(head: bytes) -> RequestHead:
    """Parse a request's head, given without the empty line at its end.

    Raises:
        BadHttpError: it is malformed, or its target is no path.
    """
    if not head.isascii():
        raise BadHttpError("the head is not ASCII")
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
    event = _parsed(parser, head)
    if not isinstance(event, h11.Request) or not event.target.startswith(b"/"):
        raise BadHttpError("this is no HTTP/1.1 request for a path")
    headers = _headers(event)
    length, is_chunked = _framing(event, headers)
    return RequestHead(
        event.method.decode("ascii"),
        event.target.decode("ascii"),
        headers,
        None if is_chunked else length or 0,
        _keeps_alive(event, headers),
        event.http_version == b"1.1",
        parser.they_are_waiting_for_100_continue,
    )


@lru_cache(maxsize=64)
def response_head(head: bytes) -> ResponseHead:
    """Parse a response's head, interim or final, given without the empty line at its end.

    Raises:
        BadHttpError: it is malformed.
    """
    parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
    parser.send(_ASKED)
    parser.send(h11.EndOfMessage())
    event = _parsed(parser, head)
    if not isinstance(event, h11.InformationalResponse | h11.Response) or event.status_code >= 600:
        raise BadHttpError("this is no HTTP/1.1 response")
    headers = _headers(event)
    length, is_chunked = _framing(event, headers)
    if event.status_code < 200 or event.status_code in {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}:
        length, is_chunked = 0, False
    return ResponseHead(event.status_code, headers, length, is_chunked, _keeps_alive(event, headers))


def _parsed(parser: h11.Connection, head: bytes) -> object:
    if head.count(b"\n") != head.count(b"\r\n"):
        raise BadHttpError("a line of the head ends in a bare LF")
    if b"\n " in head or b"\n\t" in head:
        raise BadHttpError("a header is folded over several lines")
    parser.receive_data(head + b"\r\n\r\n")
    try:
        event = parser.next_event()
    except h11.RemoteProtocolError as error:
        # What comes after the colon is the peer's own bytes, which may be a token.
        detail = str(error).partition(":")[0]
        raise BadHttpError(f"the head is malformed ({detail})", error.error_status_hint) from None
    if isinstance(event, h11.Request | h11.InformationalResponse | h11.Response) and (
        event.http_version not in _VERSIONS
    ):
        raise BadHttpError("this is neither HTTP/1.1 nor HTTP/1.0")
    return event


_Event = h11.Request | h11.InformationalResponse | h11.Response


def _headers(event: _Event) -> Mapping[str, str]:
    headers: dict[str, str] = {}
    for raw_name, raw_value in event.headers:
        name, value = raw_name.decode("ascii"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return MappingProxyType(headers)


def _framing(event: _Event, headers: Mapping[str, str]) -> tuple[int | None, bool]:
    """Return the body's length in bytes, if it is stated, and whether the body comes in chunks."""
    is_chunked, length = "transfer-encoding" in headers, headers.get("content-length")
    # Messages with both are smuggled past proxies that go by the other one (RFC 9112, 6.3); so are chunks past a
    # proxy that takes them for the body of an HTTP/1.0 message (6.1).
    if is_chunked and length is not None:
        raise BadHttpError("the message has both Content-Length and Transfer-Encoding")
    if is_chunked and event.http_version != b"1.1":
        raise BadHttpError("an HTTP/1.0 message has a Transfer-Encoding")
    return None if length is None else int(length), is_chunked


def _keeps_alive(event: _Event, headers: Mapping[str, str]) -> bool:
    options = headers.get("connection", "").lower().split(",")
    return event.http_version == b"1.1" and "close" not in {option.strip() for option in options}
