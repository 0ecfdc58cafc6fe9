"""Heads that are taken. Those that are refused: server/http/test_server.py, transport/test_http_transport.py."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from random import Random

import pytest

from comfy_gpu_offload.net.http_heads import BadHttpError, RequestHead, ResponseHead, request_head, response_head

Head = RequestHead | ResponseHead
REQUEST = b"POST /a HTTP/1.1\r\nHost: x\r\nConnection: TE\r\nExpect: 100-continue\r\nContent-Length: 15"
RESPONSE = b"HTTP/1.1 200 OK\r\nConnection: upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked"
TROUBLE = [
    *(b"", b"\r\n", b"\n", b"\r", b"\0", b" ", b":", b"\t", b",", b"\xff", b"1.0", b"101", b"999", b"CONNECT"),
    *(b"Content-Length: 1\r\n", b"Transfer-Encoding: chunked\r\n", b"Host:\r\n", b"HTTP/"),
]


def test_a_request_is_told_by_its_parts() -> None:
    head = request_head(b"POST /a/b?c=d HTTP/1.1\r\nHOST:x:1\r\nX-A: \t 1 2 \t\r\ncontent-length: 12")
    assert (head.method, head.target, head.length) == ("POST", "/a/b?c=d", 12)
    assert dict(head.headers) == {"host": "x:1", "x-a": "1 2", "content-length": "12"}
    assert head.keep_alive
    assert head.is_http_1_1
    assert not head.expects_continue


def test_repeated_headers_are_one_list_and_the_same_length_twice_is_one() -> None:
    head = request_head(b"GET / HTTP/1.1\r\nHost: x\r\nA: 1\r\na: 2\r\nContent-Length: 3\r\nContent-Length: 3")
    assert (head.headers["a"], head.length) == ("1, 2", 3)


@pytest.mark.parametrize(
    ("line", "length"), [(b"A: b", 0), (b"Content-Length: 0", 0), (b"Transfer-Encoding: Chunked", None)]
)
def test_a_requests_body_has_a_length_or_comes_in_chunks(line: bytes, length: int | None) -> None:
    assert request_head(b"POST / HTTP/1.1\r\nHost: x\r\n" + line).length == length


@pytest.mark.parametrize(
    ("head", "keep_alive"),
    [
        (b"GET / HTTP/1.1\r\nHost: x", True),
        (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: TE\r\nConnection: , Close", False),
        (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: closed", True),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive", False),
    ],
)
def test_a_connection_is_kept_unless_one_side_says_otherwise(head: bytes, *, keep_alive: bool) -> None:
    assert request_head(head).keep_alive == keep_alive
    assert response_head(b"HTTP/1" + head[12:14] + b" 200 OK" + head[14:]).keep_alive == keep_alive


def test_only_http_1_1_can_wait_to_be_asked_for_the_body() -> None:
    assert request_head(b"PUT / HTTP/1.1\r\nHost: x\r\nExpect: 100-Continue").expects_continue
    assert not request_head(b"PUT / HTTP/1.0\r\nExpect: 100-continue").expects_continue


@pytest.mark.parametrize(
    ("head", "length", "is_chunked"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 7", 7, False),
        (b"HTTP/1.1 200\r\nTransfer-Encoding: chunked", None, True),
        (b"HTTP/1.1 200 ", None, False),
        (b"HTTP/1.0 404 Not here", None, False),
        (b"HTTP/1.1 204 No Content", 0, False),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7", 0, False),
        (b"HTTP/1.1 102 Processing\r\nA: 1", 0, False),
        (b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 3", 3, False),
    ],
)
def test_a_responses_body_has_a_length_comes_in_chunks_or_ends_with_the_connection(
    head: bytes, length: int | None, *, is_chunked: bool
) -> None:
    parsed = response_head(head)
    assert parsed.status == int(head[9:12])
    assert (parsed.length, parsed.is_chunked) == (length, is_chunked)


def test_bytes_that_are_not_ascii_are_taken_in_a_response_only() -> None:
    assert response_head(b"HTTP/1.1 200 D\xe4\r\nA: \xe9").headers["a"] == "é"
    with pytest.raises(BadHttpError, match="ASCII"):
        request_head(b"GET / HTTP/1.1\r\nHost: x\r\nA: \xe9")


def test_a_refusal_does_not_repeat_what_it_refuses() -> None:
    """It may be shown or logged, and a header may hold a token."""
    with pytest.raises(BadHttpError) as caught:
        request_head(b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization Bearer: secret")
    assert "secret" not in str(caught.value)


def test_heads_cannot_be_changed_since_they_are_shared() -> None:
    head = b"GET / HTTP/1.1\r\nHost: x"
    assert request_head(head) is request_head(bytes(bytearray(head)))
    with pytest.raises(TypeError):
        request_head(head).headers["host"] = "y"  # type: ignore[index]


@pytest.mark.parametrize(("parse", "head"), [(request_head, REQUEST), (response_head, RESPONSE)])
def test_altered_heads_raise_nothing_else(parse: Callable[[bytes], Head], head: bytes) -> None:
    chance = Random(0)
    for _ in range(2000):
        altered = bytearray(head)
        for _ in range(chance.randint(1, 4)):
            place, length = chance.randrange(len(altered)), chance.choice([0, 0, 1, 3, 20])
            altered[place : place + length] = chance.choice(TROUBLE)
        with suppress(BadHttpError):
            stated = parse(bytes(altered)).length
            assert stated is None or stated >= 0
