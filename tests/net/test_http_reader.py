from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import pytest

from comfy_gpu_offload.net.http_heads import BadHttpError
from comfy_gpu_offload.net.http_reader import Body, DisconnectedError, HttpReader

REQUEST = b"POST /a HTTP/1.1\r\nHost: x\r\n\r\n"


def receiver(pieces: Iterable[bytes]) -> Callable[[memoryview], int]:
    """Return a `receive_into` that gives these pieces, or as much of one as fits."""
    left = [piece for piece in pieces if piece]

    def receive_into(view: memoryview) -> int:
        if not left:
            return 0
        piece, left[0] = left[0][: len(view)], left[0][len(view) :]
        view[: len(piece)] = piece
        if not left[0]:
            del left[0]
        return len(piece)

    return receive_into


def one_by_one(data: bytes) -> Iterator[bytes]:
    return (bytes([byte]) for byte in data)


def whole(body: Body, step: int) -> bytes:
    read, view = bytearray(), memoryview(bytearray(step))
    while count := body.read_into(view):
        read += view[:count]
    return bytes(read)


@pytest.mark.parametrize("cut", [lambda data: [data], one_by_one])
@pytest.mark.parametrize("buffer_bytes", [1, 7, 4096])
def test_a_head_and_what_follows_come_in_any_pieces(
    cut: Callable[[bytes], Iterable[bytes]], buffer_bytes: int
) -> None:
    reader = HttpReader(receiver(cut(REQUEST + b"0123456789" + REQUEST)), buffer_bytes)
    assert reader.request_head().target == "/a"
    assert whole(Body(reader, 10, is_chunked=False), 3) == b"0123456789"
    assert reader.request_head().target == "/a"
    assert reader.first_byte() is None


@pytest.mark.parametrize("cut", [lambda data: [data], one_by_one])
@pytest.mark.parametrize("step", [1, 4, 100])
def test_chunks_become_one_body(cut: Callable[[bytes], Iterable[bytes]], step: int) -> None:
    data = b"3\r\nabc\r\n00A ;name=value\r\n0123456789\r\n0\r\nA: b\r\n\r\nnext"
    reader = HttpReader(receiver(cut(data)))
    body = Body(reader, None, is_chunked=True)
    assert whole(body, step) == b"abc0123456789"
    assert body.ended
    assert whole(Body(reader, 4, is_chunked=False), step) == b"next"


def test_a_body_without_a_length_ends_with_the_connection() -> None:
    body = Body(HttpReader(receiver([b"abc", b"def"])), None, is_chunked=False)
    assert whole(body, 4) == b"abcdef"
    assert body.ended


def test_a_large_body_goes_straight_into_the_callers_memory() -> None:
    views: list[int] = []
    receive = receiver([REQUEST + b"ab", bytes(100_000)])

    def noted(view: memoryview) -> int:
        views.append(len(view))
        return receive(view)

    reader = HttpReader(noted, 64)
    reader.request_head()
    assert Body(reader, 100_002, is_chunked=False).read_into(memoryview(bytearray(100_002))) == 100_002
    assert views == [64, 100_000]


@pytest.mark.parametrize(
    ("length", "is_chunked", "data"),
    [(5, False, b"abc"), (None, True, b"5\r\nabc"), (None, True, b"3\r\nabc\r\n"), (None, True, b"0\r\nA: b\r\n")],
)
def test_a_body_that_is_cut_off_is_a_lost_connection(length: int | None, data: bytes, *, is_chunked: bool) -> None:
    with pytest.raises(DisconnectedError):
        whole(Body(HttpReader(receiver([data])), length, is_chunked=is_chunked), 100)


@pytest.mark.parametrize(
    "data",
    [
        b"\r\nabc",
        b"0x3\r\nabc\r\n",
        b" 3\r\nabc\r\n",
        b"3\nabc\r\n",
        b"3;a\nb\r\nabc\r\n",
        b"3\r\nabcd\r\n",
        b"f" * 16 + b"\r\n",
        b"3;" + b"a" * 300 + b"\r\n",
        b"0\r\nA: b\rc\r\n\r\n",
        b"0\r\n" + b"A: b\r\n" * 20_000 + b"\r\n",
    ],
)
def test_malformed_chunks_are_refused(data: bytes) -> None:
    with pytest.raises(BadHttpError):
        whole(Body(HttpReader(receiver([data])), None, is_chunked=True), 100)


def test_what_is_to_happen_before_a_body_is_read_happens_once_and_only_then() -> None:
    said: list[int] = []
    body = Body(HttpReader(receiver([b"abc"])), 3, is_chunked=False, before=lambda: said.append(1))
    assert not said
    whole(body, 1)
    assert said == [1]


def test_what_follows_an_upgrade_is_handed_over_once() -> None:
    reader = HttpReader(receiver([REQUEST + b"\x82\x00more"]))
    reader.request_head()
    assert reader.leftover() == b"\x82\x00more"
    assert reader.leftover() == b""


def test_a_head_that_does_not_come_whole_in_time_is_given_up() -> None:
    with pytest.raises(TimeoutError):
        HttpReader(receiver(one_by_one(REQUEST)), patience_s=lambda: 1e-9).request_head()


def test_empty_lines_before_a_request_are_skipped() -> None:
    reader = HttpReader(receiver([b"\r\n\r\n", b"\r", b"\n" + REQUEST]))
    while reader.first_byte() is None:
        assert reader.receive()
        reader.skip_empty_lines()
    assert reader.request_head().target == "/a"
