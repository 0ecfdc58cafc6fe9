"""Requests that go with the upgrade of a WebSocket: the worker's welcome comes with its answer."""

from __future__ import annotations

import secrets
import socket
import threading
from collections.abc import Iterator
from functools import partial
from typing import ClassVar

import pytest
import torch
from pydantic import SecretStr
from tests.support.backend import FunctionBackend
from tests.support.worker import ThreadWorker

from comfy_gpu_offload.client.session import Session
from comfy_gpu_offload.config.address import Address
from comfy_gpu_offload.errors import ConnectError, HttpStatusError
from comfy_gpu_offload.io.frame import EncodedFrame
from comfy_gpu_offload.io.frame_reader import FrameReader
from comfy_gpu_offload.io.tree import pack
from comfy_gpu_offload.net.websocket.handshake import (
    EARLY_HEADER,
    MAX_EARLY_BYTES,
    Upgrade,
    UpgradeRefusedError,
    accept,
    early_text,
    upgraded,
)
from comfy_gpu_offload.net.websocket.link import Link
from comfy_gpu_offload.net.websocket.pieces import PATH, Kind, Piece
from comfy_gpu_offload.protocol.envelope import open_frame, seal
from comfy_gpu_offload.protocol.messages import Fault, Hello, ModelRef, Probe, Welcome
from comfy_gpu_offload.server.http import routes
from comfy_gpu_offload.transport.base import Timeouts
from comfy_gpu_offload.transport.connector import connector_to
from comfy_gpu_offload.transport.early_requests import EarlyRequests
from comfy_gpu_offload.transport.websocket_connection import WebSocketConnection
from comfy_gpu_offload.transport.websocket_transport import WebSocketTransport

CLIENT = "client-under-test"
TOKEN = "a-token-that-is-hard-to-guess"


@pytest.fixture
def worker() -> Iterator[ThreadWorker]:
    with ThreadWorker(FunctionBackend()) as running:
        yield running


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the routes of the requests that are sent over open connections, as they come."""
    routes_sent: list[str] = []
    send = WebSocketConnection.send

    def noted(self: WebSocketConnection, exchange: object, route: str, *rest: object) -> None:
        routes_sent.append(route)
        send(self, exchange, route, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(WebSocketConnection, "send", noted)
    return routes_sent


def hello(model: str | None = None) -> EncodedFrame:
    ref = None if model is None else ModelRef(name=model)
    return seal(
        Hello(client=CLIENT, package="1", torch="2", codecs=("raw",), model=ref, request=secrets.token_hex(16))
    )


def transport_to(worker: ThreadWorker, token: str | None = None) -> WebSocketTransport:
    secret = None if token is None else SecretStr(token)
    return WebSocketTransport(worker.address, connector_to(worker.address), secret)


def upgrade(worker: ThreadWorker, early: str, token: str | None = None) -> tuple[Link, Upgrade]:
    headers = [(EARLY_HEADER, early)]
    if token is not None:
        headers.append(("Authorization", f"Bearer {token}"))
    asked = Upgrade(worker.address.authority, PATH, headers)
    sock = socket.create_connection(("127.0.0.1", worker.port), timeout=30)
    try:
        return Link(sock, upgraded(sock, asked, 30.0)), asked
    except BaseException:
        sock.close()
        raise


def replies(link: Link, count: int) -> dict[int, object]:
    """Return the messages of the first `count` replies by the number of their exchange."""
    pieces: list[Piece] = []
    while sum(piece.kind is Kind.END for piece in pieces) < count:
        pieces += [
            Piece(piece.kind, piece.exchange, memoryview(bytes(piece.payload))) for piece in link.receive(1.0)
        ]
    link.abandon()
    readers: dict[int, FrameReader] = {}
    found: dict[int, object] = {}
    for piece in pieces:
        if piece.kind in {Kind.DATA, Kind.END}:
            for frame in readers.setdefault(piece.exchange, FrameReader()).feed(piece.payload):
                found[piece.exchange] = open_frame(frame).message
    return found


def test_the_welcome_comes_with_the_answer_to_the_upgrade(worker: ThreadWorker) -> None:
    link, asked = upgrade(worker, early_text(bytes(hello().joined())))
    assert asked.early_taken == 1
    assert isinstance(replies(link, 1)[1], Welcome)  # nothing was sent since


def test_several_requests_go_with_one_upgrade(worker: ThreadWorker) -> None:
    link, asked = upgrade(worker, early_text(bytes(hello().joined() + hello("echo").joined())))
    assert asked.early_taken == 2
    answers = replies(link, 2)
    assert [isinstance(answers[number], Welcome) for number in (1, 2)] == [True, True]
    assert isinstance(answers[2], Welcome)
    assert answers[2].model is not None


def test_a_session_sends_no_hello_after_the_upgrade(worker: ThreadWorker, sent: list[str]) -> None:
    with Session(transport_to(worker)) as session:
        assert sent == []
        x = torch.ones(3)
        assert torch.equal(session.model("echo")(x), x)
    assert sent == ["hello", "forward"]


def test_a_worker_that_does_not_know_the_header_is_said_hello_to(
    worker: ThreadWorker, sent: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "_early_frames", lambda *_: [])
    with Session(transport_to(worker)) as session:
        assert sent == ["hello"]
        session.model("echo")


def test_a_proxy_may_drop_the_header_of_the_answer(
    worker: ThreadWorker, sent: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def without(*args: object, early_taken: int, **options: object) -> object:
        return accept(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(routes, "accept", without)
    with Session(transport_to(worker)) as session:
        assert sent == ["hello"]  # under another number than the one that the worker has answered
        session.model("echo")


def test_a_request_that_is_too_large_for_a_header_is_sent_afterwards(worker: ThreadWorker, sent: list[str]) -> None:
    noise = torch.randint(0, 256, (MAX_EARLY_BYTES,), dtype=torch.uint8)
    probe = seal(Probe(client=CLIENT, reply_bytes=0, request=secrets.token_hex(16)), pack(noise, "noise"))
    transport = transport_to(worker)
    open_frame(transport.exchange("hello", probe, Timeouts()))
    transport.close()
    assert sent == ["hello"]


def cut(frame: bytes) -> str:
    return early_text(frame[:-1])


def claiming_more(frame: bytes) -> str:
    return early_text(frame[:16] + (2**62).to_bytes(8, "little") + frame[24:])


def long_one(frame: bytes) -> str:
    return early_text(frame * (MAX_EARLY_BYTES // len(frame) + 1))


@pytest.mark.parametrize(
    "damaged", [cut, claiming_more, long_one, lambda _: "!", lambda _: "", lambda _: "AAAAA", lambda _: "AA,AA"]
)
def test_a_damaged_header_is_refused_by_a_fault(worker: ThreadWorker, damaged: object) -> None:
    text = damaged(bytes(hello().joined()))  # type: ignore[operator]
    with pytest.raises(UpgradeRefusedError) as refusal:
        upgrade(worker, text)
    assert refusal.value.status in {400, 413}
    fault = open_frame(bytearray(refusal.value.body)).message
    assert isinstance(fault, Fault)
    assert fault.code.value in {"bad_frame", "too_large"}


def test_a_frame_that_was_altered_on_its_way_is_answered_by_a_fault(worker: ThreadWorker) -> None:
    frame = bytearray(hello().joined())
    frame[-1] ^= 1
    link, _ = upgrade(worker, early_text(bytes(frame)))
    fault = replies(link, 1)[1]
    assert isinstance(fault, Fault)
    assert fault.code.value == "bad_frame"


def test_nothing_is_read_of_a_client_with_a_wrong_token() -> None:
    with ThreadWorker(FunctionBackend(), token=TOKEN) as guarded:
        with pytest.raises(UpgradeRefusedError) as refusal:
            upgrade(guarded, "!", "another-token")
        assert refusal.value.status == 401
        link, _ = upgrade(guarded, early_text(bytes(hello().joined())), TOKEN)
        assert isinstance(replies(link, 1)[1], Welcome)


class GatedConnector:
    """A connector that waits for `gate` before it connects."""

    def __init__(self, worker: ThreadWorker) -> None:
        self._inner = connector_to(worker.address)
        self.asked, self.gate = threading.Event(), threading.Event()

    def connect(self, timeout_s: float) -> object:
        self.asked.set()
        assert self.gate.wait(30)
        return self._inner.connect(timeout_s)


def waiting_in(transport: WebSocketTransport, count: int) -> None:
    early: EarlyRequests = transport._early
    while len(early._waiting) != count:
        threading.Event().wait(0.005)


def test_whoever_waits_for_the_connection_joins_the_upgrade(worker: ThreadWorker, sent: list[str]) -> None:
    connector = GatedConnector(worker)
    transport = WebSocketTransport(worker.address, connector)  # type: ignore[arg-type]
    got: list[Welcome] = []

    def ask(model: str | None) -> None:
        message = open_frame(transport.exchange("hello", hello(model), Timeouts())).message
        assert isinstance(message, Welcome)
        got.append(message)

    threads = [threading.Thread(target=ask, args=(model,)) for model in (None, "echo")]
    for thread in threads:
        thread.start()
    assert connector.asked.wait(30)
    waiting_in(transport, 2)
    connector.gate.set()
    for thread in threads:
        thread.join(30)
    transport.close()
    assert len(got) == 2
    assert sent == []


class StopWaitingError(Exception):
    """A test's own interrupt."""


def test_whoever_stops_waiting_leaves_the_connection_to_the_others(worker: ThreadWorker) -> None:
    connector = GatedConnector(worker)
    transport = WebSocketTransport(worker.address, connector)  # type: ignore[arg-type]
    stop, raised = threading.Event(), threading.Event()

    def check() -> None:
        if stop.is_set():
            raise StopWaitingError

    def interrupted() -> None:
        try:
            transport.exchange("hello", hello("echo"), Timeouts(), check)
        except StopWaitingError:
            raised.set()

    opener = threading.Thread(target=partial(transport.exchange, "hello", hello(), Timeouts()))
    opener.start()
    assert connector.asked.wait(30)
    waiter = threading.Thread(target=interrupted)
    waiter.start()
    waiting_in(transport, 2)
    stop.set()
    waiter.join(30)
    connector.gate.set()
    opener.join(30)
    assert raised.is_set()
    answer = open_frame(transport.exchange("hello", hello("echo"), Timeouts())).message
    assert isinstance(answer, Welcome)
    transport.close()


def test_a_request_whose_connection_failed_goes_with_the_next_upgrade(
    worker: ThreadWorker, sent: list[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        address = Address("http", "127.0.0.1", nobody.getsockname()[1])
    with pytest.raises((ConnectError, HttpStatusError)):
        WebSocketTransport(address, connector_to(address)).exchange("hello", hello(), Timeouts())
    transport = transport_to(worker)
    transport.exchange("hello", hello(), Timeouts())
    transport.close()
    transport.exchange("hello", hello(), Timeouts())
    transport.close()
    assert sent == []


def test_a_withdrawn_request_that_was_taken_is_dropped() -> None:
    early = EarlyRequests()
    ended: list[object] = []

    class Connection:
        early: ClassVar = ["exchange"]

        def end(self, exchange: object, *, is_answered: bool) -> None:
            ended.append((exchange, is_answered))

    def interrupt() -> None:
        with early.waiting("hello", hello()):
            taken.extend(early.for_upgrade())
            raise StopWaitingError

    taken: list[object] = []
    with pytest.raises(StopWaitingError):
        interrupt()
    early.taken(taken, Connection())  # type: ignore[arg-type]
    assert ended == [("exchange", False)]
