"""Payloads that pass beside the library, as the library itself reads and writes them."""

from __future__ import annotations

import pytest
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side, State

from comfy_gpu_offload.net.websocket.payloads import IncomingPayload, framed
from comfy_gpu_offload.net.websocket.unsent import Unsent

PATTERN = bytes(range(256)) * 400


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 100_000])
def test_an_unmasked_message_is_what_the_library_would_send(size: int) -> None:
    parts = (PATTERN[: size // 3], memoryview(PATTERN)[size // 3 : size])
    assert b"".join(framed(parts, is_masked=False)) == Frame(Opcode.BINARY, PATTERN[:size]).serialize(mask=False)


@pytest.mark.parametrize("sizes", [(0,), (5,), (5, 120), (1, 2, 3, 65_000), (7, 0, 90_001, 3)])
def test_a_masked_message_is_read_by_the_library(sizes: tuple[int, ...]) -> None:
    worker = Protocol(Side.SERVER, state=State.OPEN)
    parts = [PATTERN[:size] for size in sizes]
    worker.receive_data(b"".join(framed(parts, is_masked=True)))
    (frame,) = worker.events_received()
    assert isinstance(frame, Frame)
    assert (frame.opcode, frame.data) == (Opcode.BINARY, b"".join(parts))


def test_the_mask_of_every_message_is_another() -> None:
    assert len({bytes(framed((b"",), is_masked=True)[0]) for _ in range(20)}) == 20


@pytest.mark.parametrize("side", [Side.SERVER, Side.CLIENT])
def test_the_library_takes_a_long_payload_from_where_it_was_received(side: Side) -> None:
    protocol = Protocol(side, state=State.OPEN)
    incoming = IncomingPayload(protocol)
    message = b"".join(framed((PATTERN,), is_masked=side is Side.SERVER))
    head = len(message) - len(PATTERN) + 10  # some of the payload comes with its head
    protocol.receive_data(message[:head])
    assert len(incoming.vacant) == len(message) - head
    while incoming.vacant:
        some = min(len(incoming.vacant), 30_000)
        incoming.vacant[:some] = message[head : head + some]
        incoming.received(some)
        head += some
    protocol.receive_data(b"\x89")
    (frame,) = protocol.events_received()
    assert isinstance(frame, Frame)
    assert bytes(frame.data) == PATTERN


def test_what_ends_in_a_long_payload_is_lost() -> None:
    protocol = Protocol(Side.CLIENT, state=State.OPEN)
    IncomingPayload(protocol)
    protocol.receive_data(b"".join(framed((PATTERN,), is_masked=False))[:5000])
    protocol.receive_eof()
    assert protocol.events_received() == []
    assert protocol.close_code == 1006


@pytest.mark.parametrize("counts", [[1] * 12, [3, 9], [4, 4, 4], [12], [5, 7]])
def test_what_was_sent_is_sent_no_more(counts: list[int]) -> None:
    unsent, sent = Unsent(), b""
    unsent.begin((b"one", b"", memoryview(b"two+"), b"three"))
    unsent.add(b"a short one")
    for count in counts:
        sent += b"".join(unsent.next())[:count]
        unsent.sent(count)
    assert sent == b"onetwo+three"
    assert unsent.next() == [b"a short one"]


def test_a_copy_is_kept_of_what_its_owner_may_write_to() -> None:
    unsent, owned = Unsent(), bytearray(b"before")
    unsent.begin((memoryview(owned),))
    unsent.sent(2)
    unsent.copy()
    owned[:] = b"after!"
    assert unsent.next() == [b"fore"]
