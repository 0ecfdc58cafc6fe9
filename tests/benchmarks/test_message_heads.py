"""The places of heads, however the bytes are cut into pieces."""

from __future__ import annotations

import pytest
from websockets.frames import Frame, Opcode

_ANSWER = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"
_SIZES = (0, 5, 125, 126, 300, 65535, 65536, 70000)


def _stream(*, mask: bool) -> tuple[bytes, list[int]]:
    """Return frames of all kinds of lengths, and where each begins."""
    stream, begins = b"", []
    for size in _SIZES:
        begins.append(len(stream))
        stream += Frame(Opcode.BINARY, (b"POST / HTTP/1.1 " * 5000)[:size]).serialize(mask=mask)
    return stream, begins


@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000, 10**6])
def test_every_head_of_a_frame_is_found(way: str, step: int) -> None:
    from message_heads import Heads

    stream, begins = _stream(mask=way == "up")
    heads, found = Heads(), []
    heads.found(_ANSWER, "down")
    for begin in range(0, len(stream), step):
        found += [begin + at for at, _ in heads.found(stream[begin : begin + step], way)]
    assert found == begins


def test_frames_that_come_with_the_answer_to_an_upgrade_are_found() -> None:
    from message_heads import Heads

    stream, begins = _stream(mask=False)
    found = Heads().found(_ANSWER + stream, "down")
    assert [at for at, _ in found] == [0, *(len(_ANSWER) + begin for begin in begins)]
    assert found[:3] == [(0, len(_ANSWER)), (len(_ANSWER), 2), (len(_ANSWER) + 2, 2)]


def test_heads_of_http_messages_are_found() -> None:
    from message_heads import Heads

    request = b"POST /v1/hello HTTP/1.1\r\nHost: worker\r\n\r\n"
    assert Heads().found(request + b"body" + request, "up") == [(0, len(request)), (len(request) + 4, len(request))]
