from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.tls import self_signed, server_context
from websockets.protocol import Protocol

from comfy_gpu_offload.net.sockets import wait_writable
from comfy_gpu_offload.net.websocket import link as link_module
from comfy_gpu_offload.net.websocket.handshake import Upgrade, UpgradeRefusedError, accept, upgraded
from comfy_gpu_offload.net.websocket.link import Link, LinkClosedError
from comfy_gpu_offload.net.websocket.pieces import PATH, Kind, Piece, sealed


def headers_of(request: bytes) -> dict[str, str]:
    lines = request.decode().split("\r\n")[1:-2]
    return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}


def shaken_hands() -> tuple[Protocol, Protocol]:
    upgrade = Upgrade("worker:8288", PATH, [("Authorization", "Bearer token")])
    accepted = accept(PATH, headers_of(upgrade.request), method="GET", is_http_1_1=True)
    client = upgrade.receive(accepted.answer)
    assert client is not None
    return client, accepted.protocol


@contextmanager
def shaken_links() -> Iterator[tuple[Link, Link]]:
    ours, theirs = socket.socketpair()
    client, worker = shaken_hands()
    links = Link(ours, client), Link(theirs, worker)
    yield links
    for link in links:
        link.abandon()


@pytest.fixture
def ends() -> Iterator[tuple[Link, Link]]:
    with shaken_links() as links:
        yield links


def nothing() -> None:
    pass


def received(link: Link, count: int) -> list[Piece]:
    pieces: list[Piece] = []
    until = monotonic() + 20
    while len(pieces) < count:
        assert monotonic() < until
        pieces += link.receive(5.0)
    return pieces


def receive_all(link: Link) -> None:
    until = monotonic() + 20
    while monotonic() < until:
        link.receive(5.0)


@pytest.mark.parametrize("from_client", [True, False])
@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 100_000])
def test_a_piece_arrives_as_it_was_sent(ends: tuple[Link, Link], size: int, *, from_client: bool) -> None:
    sender, receiver = ends if from_client else reversed(ends)
    payload = bytes(range(256)) * (size // 256 + 1)
    sending = threading.Thread(target=sender.send, args=(sealed(Kind.DATA, 7, payload[:size]), nothing))
    sending.start()
    (piece,) = received(receiver, 1)
    sending.join()
    assert (piece.kind, piece.exchange, bytes(piece.payload)) == (Kind.DATA, 7, payload[:size])


@pytest.mark.parametrize("from_client", [True, False])
@given(sizes=st.lists(st.one_of(st.integers(0, 3000), st.sampled_from([1023, 1024, 4096, 8192])), max_size=12))
@settings(max_examples=60, deadline=None)
def test_pieces_that_arrive_together_are_each_as_it_was_sent(sizes: list[int], *, from_client: bool) -> None:
    with shaken_links() as ends:
        sender, receiver = ends if from_client else reversed(ends)
        sent = [(number, bytes([number]) * size) for number, size in enumerate(sizes, 1)]
        for number, payload in sent:
            sender.send(sealed(Kind.DATA, number, payload), nothing)
        got: list[tuple[int, bytes]] = []
        while len(got) < len(sent):
            got += [(piece.exchange, bytes(piece.payload)) for piece in receiver.receive(5.0)]
        assert got == sent


def test_the_rest_of_an_interrupted_piece_is_sent_before_the_next(ends: tuple[Link, Link]) -> None:
    client, worker = ends

    class StopError(Exception):
        pass

    def stop() -> None:
        raise StopError

    def fill() -> None:
        for _ in range(1000):  # until no buffer takes any more
            client.send(sealed(Kind.DATA, 1, bytes(60_000)), stop)

    with pytest.raises(StopError):
        fill()
    client.post(sealed(Kind.DROP, 1))
    pieces: list[Piece] = []
    while not pieces or pieces[-1].kind is not Kind.DROP:
        pieces += worker.receive(0.1)
        client.tend()
    assert {len(piece.payload) for piece in pieces[:-1]} == {60_000}


def test_an_urgent_piece_does_not_wait_behind_a_long_message(ends: tuple[Link, Link]) -> None:
    client, worker = ends
    total = 200

    def send_long() -> None:
        for _ in range(total):
            client.send(sealed(Kind.DATA, 1, bytes(60_000)), nothing)

    long = threading.Thread(target=send_long)
    long.start()
    while worker.receive(5.0)[-1].payload.nbytes != 60_000:
        pass  # it is under way
    urgent = threading.Thread(target=client.send, args=(sealed(Kind.BEGIN, 2), nothing), kwargs={"urgent": True})
    urgent.start()
    before, seen = 0, False
    while not seen:
        for piece in worker.receive(5.0):
            seen = seen or piece.exchange == 2
            before += not seen
    while long.is_alive():
        worker.receive(0.1)
    urgent.join()
    assert before < total - 50  # what the socket's buffers hold, and not all of it


def test_signs_of_life_are_sent_when_the_line_is_idle(ends: tuple[Link, Link]) -> None:
    client, worker = ends
    client.tend(warm=True)
    assert [piece.kind for piece in received(worker, 1)] == [Kind.WARM]


def test_bytes_of_a_piece_are_heard_before_it_is_whole() -> None:
    ours, theirs = socket.socketpair()
    client, protocol = shaken_hands()
    worker = Link(theirs, protocol)
    sent = b"".join(sent_by(client, b"".join(sealed(Kind.DATA, 3, bytes(100_000)))))
    at_first = worker.heard_at
    ours.sendall(sent[:50_000])
    assert worker.receive(0.01) == []
    assert worker.heard_at > at_first
    worker.abandon()


def test_the_reason_of_a_close_arrives(ends: tuple[Link, Link]) -> None:
    client, worker = ends
    worker.close(1008, "no")
    with pytest.raises(LinkClosedError, match="no") as caught:
        receive_all(client)
    assert caught.value.code == 1008
    with pytest.raises(LinkClosedError):
        client.send(sealed(Kind.WARM), nothing)


def test_an_end_without_a_close_is_told(ends: tuple[Link, Link]) -> None:
    client, worker = ends
    worker.abandon()
    with pytest.raises(LinkClosedError) as caught:
        receive_all(client)
    assert caught.value.code == 1006


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"\x82\x05" + sealed(Kind.WARM)[0], 1002),  # unmasked
        (b"\x81\x80abcd", 1003),  # text
        (b"\x82\x80abcd", 1002),  # no header of a piece
        (b"\xc2\x80abcd", 1002),  # a reserved bit, as compression would set
        (b"\x83\x80abcd", 1002),  # an opcode that there is not
        (b"\x82\xff" + (1 << 63).to_bytes(8, "big") + b"abcd", 1009),
        (b"\x82\xff" + (1 << 62).to_bytes(8, "big") + b"abcd", 1009),
        (b"\x82\xff" + (2_000_000).to_bytes(8, "big") + b"abcd", 1009),
        (b"\x09\x80abcd", 1002),  # a ping in fragments
        (b"\x80\x80abcd", 1002),  # a continuation of nothing
    ],
)
def test_what_breaks_the_protocol_ends_the_connection_with_its_code(sent: bytes, code: int) -> None:
    ours, theirs = socket.socketpair()
    _, protocol = shaken_hands()
    worker = Link(theirs, protocol)
    ours.sendall(sent)
    with pytest.raises(LinkClosedError) as caught:
        receive_all(worker)
    assert caught.value.code == code
    worker.linger(0.1)
    ours.settimeout(5)
    assert ours.recv(100)[2:4] == code.to_bytes(2, "big")


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"\x82\x85abcd" + sealed(Kind.WARM)[0], 1002),  # masked
        (b"\x81\x00", 1003),
        (b"\x82\x00", 1002),
        (b"\xc2\x00", 1002),
        (b"\x82\x7f" + (1 << 63).to_bytes(8, "big"), 1009),
        (b"\x80\x00", 1002),
        (b"\x02\x00\x82\x00", 1002),  # a message within another
    ],
)
def test_a_server_that_breaks_the_protocol_is_left(sent: bytes, code: int) -> None:
    ours, theirs = socket.socketpair()
    protocol, _ = shaken_hands()
    client = Link(ours, protocol)
    theirs.sendall(sent)
    with pytest.raises(LinkClosedError) as caught:
        receive_all(client)
    assert caught.value.code == code


def test_fragments_without_end_are_no_larger_than_a_message() -> None:
    ours, theirs = socket.socketpair()
    _, protocol = shaken_hands()
    worker = Link(theirs, protocol)

    def send() -> None:
        with suppress(OSError):
            ours.sendall(b"\x02\xfe" + (60_000).to_bytes(2, "big") + bytes(4) + bytes(60_000))
            while True:
                ours.sendall(b"\x00\xfe" + (60_000).to_bytes(2, "big") + bytes(4) + bytes(60_000))

    sending = threading.Thread(target=send)
    sending.start()
    with pytest.raises(LinkClosedError) as caught:
        receive_all(worker)
    assert caught.value.code == 1009
    assert len(worker._fragments) <= 1024 * 1024
    worker.abandon()
    sending.join()


def test_a_message_in_fragments_is_one_piece() -> None:
    ours, theirs = socket.socketpair()
    _, protocol = shaken_hands()
    worker = Link(theirs, protocol)
    message = b"".join(sealed(Kind.DATA, 3, b"abc"))
    mask = bytes(4)
    ours.sendall(b"\x02\x82" + mask + message[:2] + b"\x89\x80" + mask + b"\x80" + bytes([0x80 + len(message) - 2]))
    ours.sendall(mask + message[2:])
    (piece,) = received(worker, 1)
    assert (piece.kind, piece.exchange, bytes(piece.payload)) == (Kind.DATA, 3, b"abc")


def test_pings_are_answered_and_a_flood_of_them_ends_the_connection() -> None:
    ours, theirs = socket.socketpair()
    _, protocol = shaken_hands()
    worker = Link(theirs, protocol)
    ours.sendall(b"\x89\x82" + bytes(4) + b"hi")
    assert worker.receive(5.0) == []
    assert ours.recv(100) == b"\x8a\x02hi"

    def flood() -> None:
        with suppress(OSError):
            while True:
                ours.sendall((b"\x89\xfd" + bytes(4) + bytes(125)) * 100)

    flooding = threading.Thread(target=flood)
    flooding.start()
    with pytest.raises(LinkClosedError, match="does not read"):
        receive_all(worker)
    worker.abandon()
    flooding.join()


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"sec-websocket-version": "12"}, 426),
        ({"sec-websocket-key": "c2hvcnQ="}, 400),
        ({"sec-websocket-protocol": "another"}, 400),
        ({"upgrade": "h2c"}, 426),
        ({"connection": "close"}, 426),
    ],
)
def test_an_upgrade_that_is_none_is_refused(change: dict[str, str], status: int) -> None:
    headers = headers_of(Upgrade("worker", PATH, []).request) | change
    with pytest.raises(UpgradeRefusedError) as caught:
        accept(PATH, headers, method="GET", is_http_1_1=True)
    assert caught.value.status == status


def test_compression_is_not_agreed_to() -> None:
    headers = headers_of(Upgrade("worker", PATH, []).request)
    headers["sec-websocket-extensions"] = "permessage-deflate"
    accepted = accept(PATH, headers, method="GET", is_http_1_1=True)
    assert b"extensions" not in accepted.answer.lower()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nhere",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhere\r\n0\r\n\r\n",
        b"HTTP/1.1 503 Busy\r\nConnection: close\r\n\r\nhere",
    ],
)
def test_a_refusal_arrives_with_its_body(answer: bytes) -> None:
    ours, theirs = socket.socketpair()
    theirs.sendall(answer)
    theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(UpgradeRefusedError) as caught:
        upgraded(ours, Upgrade("worker", PATH, []), 20)
    assert (caught.value.status, caught.value.body) == (int(answer.split()[1]), b"here")


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 101 Switching Protocols\r\n\r\n"]
)
def test_an_answer_that_opens_nothing_is_a_refusal(answer: bytes) -> None:
    ours, theirs = socket.socketpair()
    theirs.sendall(answer)
    theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(UpgradeRefusedError):
        upgraded(ours, Upgrade("worker", PATH, []), 20)


def test_the_protocol_needs_the_subprotocol() -> None:
    upgrade = Upgrade("worker", PATH, [])
    accepted = accept(PATH, headers_of(upgrade.request), method="GET", is_http_1_1=True)
    lines = [
        line for line in accepted.answer.split(b"\r\n") if not line.lower().startswith(b"sec-websocket-protocol")
    ]
    with pytest.raises(UpgradeRefusedError):
        upgrade.receive(b"\r\n".join(lines))


def test_a_goodbye_that_comes_with_the_answer_is_received() -> None:
    upgrade = Upgrade("worker", PATH, [])
    accepted = accept(PATH, headers_of(upgrade.request), method="GET", is_http_1_1=True)
    ours, theirs = socket.socketpair()
    theirs.sendall(accepted.answer + b"\x88\x02" + (1001).to_bytes(2, "big"))
    link = Link(ours, upgraded(ours, upgrade, 20))
    with pytest.raises(LinkClosedError) as caught:
        receive_all(link)
    assert caught.value.code == 1001


def test_an_answer_that_trickles_in_is_not_waited_for_longer_than_allowed() -> None:
    ours, theirs = socket.socketpair()
    ended = threading.Event()

    def trickle() -> None:
        theirs.sendall(b"HTTP/1.1 101 Switching Protocols\r\nX: ")
        while not ended.wait(0.02):
            theirs.sendall(b"x")

    threading.Thread(target=trickle, daemon=True).start()
    with pytest.raises(TimeoutError):
        upgraded(ours, Upgrade("worker", PATH, []), 0.3)
    ended.set()


@pytest.mark.parametrize(("method", "is_http_1_1", "status"), [("POST", True, 405), ("GET", False, 505)])
def test_an_upgrade_is_a_get_of_http_1_1(method: str, status: int, *, is_http_1_1: bool) -> None:
    with pytest.raises(UpgradeRefusedError) as caught:
        accept(PATH, headers_of(Upgrade("worker", PATH, []).request), method=method, is_http_1_1=is_http_1_1)
    assert caught.value.status == status


def test_a_socket_that_is_closed_under_a_waiting_sender_is_a_closed_connection(
    ends: tuple[Link, Link], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, _ = ends

    def closed_meanwhile(sock: socket.socket, seconds: float) -> bool:
        client.abandon()
        return wait_writable(sock, seconds)

    monkeypatch.setattr(link_module, "wait_writable", closed_meanwhile)
    with pytest.raises(LinkClosedError):
        send_for_ever(client)


def send_for_ever(link: Link) -> None:
    while True:
        link.send(sealed(Kind.DATA, 1, bytes(60_000)), nothing)


def test_after_a_close_over_tls_no_encrypted_bytes_are_taken_for_pieces(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    answering: list[socket.socket] = []
    context = server_context(self_signed(tmp_path))
    shaking = threading.Thread(target=lambda: answering.append(context.wrap_socket(theirs, server_side=True)))
    shaking.start()
    secured = trusting.wrap_socket(ours)
    shaking.join()
    client, protocol = shaken_hands()
    worker = Link(answering[0], protocol)
    worker.close()
    secured.sendall(b"".join(sent_by(client, b"".join(sealed(Kind.DATA, 3, bytes(1000))))))
    deciphered = worker._sock.recv(2000)
    assert deciphered.startswith(b"\x82\xfe")
    secured.close()
    worker.linger(20)


def sent_by(protocol: Protocol, message: bytes) -> list[bytes]:
    protocol.send_binary(message)
    return protocol.data_to_send()
