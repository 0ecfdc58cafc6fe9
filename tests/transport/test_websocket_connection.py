"""The client's end of a WebSocket, against a peer that the test plays."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from time import monotonic, sleep

import pytest
import torch
from tests.support.frames import forward_frame
from websockets.protocol import Protocol, Side

from comfy_gpu_offload.errors import ConnectionLostError
from comfy_gpu_offload.io.frame import FrameLimits
from comfy_gpu_offload.net.sockets import wait_writable
from comfy_gpu_offload.net.websocket.link import Link, LinkClosedError
from comfy_gpu_offload.net.websocket.pieces import Kind, Message, Piece, sealed
from comfy_gpu_offload.transport.websocket_connection import OpenExchange, Said, WebSocketConnection

SMALL = forward_frame(torch.zeros(3))
LARGE = forward_frame(torch.zeros(2_000_000))


class Peer:
    """The worker's end."""

    def __init__(self, sock: socket.socket) -> None:
        self.link = Link(sock, Protocol(Side.SERVER))

    def pieces(self, enough: Callable[[list[Piece]], bool]) -> list[Piece]:
        """Receive until the pieces that came, without signs of life, are enough."""
        got: list[Piece] = []
        until = monotonic() + 30
        while not enough(got):
            assert monotonic() < until
            pieces = [each._replace(payload=memoryview(bytes(each.payload))) for each in self.link.receive(1.0)]
            got += [piece for piece in pieces if piece.kind is not Kind.WARM]
        return got


@pytest.fixture
def ends() -> Iterator[tuple[WebSocketConnection, Peer]]:
    ours, theirs = socket.socketpair()
    client = WebSocketConnection(
        "http://worker", Link(ours, Protocol(Side.CLIENT)), FrameLimits(frame_bytes=10_000)
    )
    peer = Peer(theirs)
    yield client, peer
    client.give_up(ConnectionLostError("the test is over"))
    peer.link.abandon()


def begun(client: WebSocketConnection) -> OpenExchange:
    exchange = client.begin("forward")
    assert exchange is not None
    return exchange


def nothing() -> None:
    """Check nothing."""


def error_of(exchange: OpenExchange) -> ConnectionLostError:
    while not isinstance(event := exchange.events.get(timeout=30), ConnectionLostError):
        assert event is not None
    return event


def test_numbers_go_up_though_an_urgent_exchange_overtakes_others(ends: tuple[WebSocketConnection, Peer]) -> None:
    client, peer = ends
    sends = [(begun(client), "forward", LARGE, nothing) for _ in range(3)]
    senders = [threading.Thread(target=client.send, args=each) for each in sends]
    senders[0].start()
    while wait_writable(client._link._sock, 0):  # until nothing more goes
        sleep(0.01)
    for sender in senders[1:]:
        sender.start()
    while len(client._link._turns._others) < 2:
        sleep(0.01)
    urgent = threading.Thread(target=client.send, args=(begun(client), "cancel", SMALL, nothing))
    urgent.start()
    while not client._link._turns._urgent:
        sleep(0.01)
    got = peer.pieces(lambda pieces: sum(piece.kind is Kind.BEGIN for piece in pieces) == 4)
    begins = [piece for piece in got if piece.kind is Kind.BEGIN]
    assert [piece.exchange for piece in begins] == [1, 2, 3, 4]
    assert [piece.payload[0] for piece in begins].index(3) == 1  # the cancel came before those that asked earlier
    peer.pieces(lambda pieces: not any(thread.is_alive() for thread in [*senders, urgent]))


def test_an_exchange_given_up_before_its_turn_came_leaves_nothing(ends: tuple[WebSocketConnection, Peer]) -> None:
    client, peer = ends
    client.end(begun(client), is_answered=False)
    client.send(begun(client), "forward", SMALL, nothing)
    (piece,) = peer.pieces(bool)
    assert (piece.kind, piece.exchange) == (Kind.BEGIN, 1)
    client.close()
    assert not client._unsent


def test_each_exchange_has_an_error_of_its_own(ends: tuple[WebSocketConnection, Peer]) -> None:
    client, peer = ends
    exchanges = [begun(client) for _ in range(2)]
    for exchange in exchanges:
        client.send(exchange, "forward", SMALL, nothing)
    peer.link.close(1011, "no")
    first, second = map(error_of, exchanges)
    assert first is not second
    assert "no (1011)" in str(first) == str(second)
    assert client.begin("forward") is None


def test_replies_that_nobody_takes_end_the_connection(ends: tuple[WebSocketConnection, Peer]) -> None:
    client, peer = ends
    exchange = begun(client)
    client.send(exchange, "forward", SMALL, nothing)

    def flood() -> None:
        for _ in range(10_000):
            peer.link.send(sealed(Kind.DATA, 1, SMALL.joined()), nothing)
            peer.link.receive(0)

    with pytest.raises(LinkClosedError):
        flood()
    assert "more replies than are taken" in str(error_of(exchange))


def test_a_flood_of_lines_keeps_to_a_bound(ends: tuple[WebSocketConnection, Peer]) -> None:
    client, peer = ends
    exchange = begun(client)
    client.send(exchange, "forward", SMALL, nothing)
    for _ in range(5000):
        peer.link.send(sealed(Kind.WAITING, 1, b"behind others"), nothing)
    peer.link.send(sealed(Kind.END, 1, SMALL.joined()), nothing)
    events = []
    while (event := exchange.events.get(timeout=30)) is not None:
        events.append(event)
    assert len(events) < 4000
    assert isinstance(events[0], Said)
    assert isinstance(events[-1], memoryview)


@pytest.mark.parametrize("piece", [sealed(Kind.DATA, 1, b"no frame" * 4), sealed(Kind.END, 1)])
def test_what_is_no_reply_is_a_loss(ends: tuple[WebSocketConnection, Peer], piece: Message) -> None:
    client, peer = ends
    exchange = begun(client)
    client.send(exchange, "forward", SMALL, nothing)
    peer.link.send(piece, nothing)
    if b"".join(piece)[0] == Kind.END:
        assert exchange.events.get(timeout=30) is None  # no reply, which the transport refuses
    else:
        error_of(exchange)


def test_a_reply_that_ends_in_its_middle_is_a_loss(ends: tuple[WebSocketConnection, Peer]) -> None:
    client, peer = ends
    exchange = begun(client)
    client.send(exchange, "forward", SMALL, nothing)
    peer.link.send(sealed(Kind.END, 1, SMALL.joined()[:-1]), nothing)
    assert "middle of a frame" in str(error_of(exchange))
