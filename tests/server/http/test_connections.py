"""Connections that are closed when a worker has more than it takes, and wrong tokens."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import torch
from tests.support.backend import FunctionBackend
from tests.support.websocket_client import upgrade_request
from tests.support.worker import ThreadWorker

from comfy_gpu_offload import connect
from comfy_gpu_offload.errors import UnauthorizedError
from comfy_gpu_offload.server.http.connections import Connection, Connections
from comfy_gpu_offload.server.http.reply import Reply
from comfy_gpu_offload.server.http.request import Request
from comfy_gpu_offload.server.http.server import HttpServer, ServerLimits, listen
from comfy_gpu_offload.server.http.wrong_tokens import WrongTokens

TOKEN = "0123456789abcdefghijklmnop"
NO_THREAD = threading.Thread()


@pytest.fixture
def ends() -> Iterator[list[socket.socket]]:
    """Sockets that are closed after the test."""
    made: list[socket.socket] = []
    yield made
    for sock in made:
        sock.close()


def connection(ends: list[socket.socket], peer: str = "10.0.0.1", *, trusted: bool = False) -> Connection:
    ours, theirs = socket.socketpair()
    ends += [ours, theirs]
    made = Connection(ours, peer)
    if trusted:
        made.trust()
    return made


def test_the_oldest_silent_one_of_the_same_address_goes(ends: list[socket.socket]) -> None:
    table = Connections(most=100, untrusted_each=2)
    others = [connection(ends, "10.0.0.2") for _ in range(2)]
    old, busy, new = (connection(ends) for _ in range(3))
    for each in (*others, old, busy):
        assert table.admit(each, NO_THREAD)
    busy.is_silent = False
    assert table.admit(new, NO_THREAD)
    assert [each.closed.is_set() for each in (*others, old, busy, new)] == [False, False, True, False, False]
    new.is_silent = False
    assert not table.admit(connection(ends), NO_THREAD)


def test_with_a_token_shown_a_connection_never_goes(ends: list[socket.socket]) -> None:
    table = Connections(most=3, untrusted_each=2)
    trusted = [connection(ends, trusted=True) for _ in range(2)]
    silent, new = connection(ends, "10.0.0.2"), connection(ends, "10.0.0.3")
    for each in (*trusted, silent, new):
        assert table.admit(each, NO_THREAD)
    assert silent.closed.is_set()
    assert not any(each.closed.is_set() for each in (*trusted, new))
    new.trust()
    assert not table.admit(connection(ends, "10.0.0.4"), NO_THREAD)


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"POST /v1/forward HTTP/1.1\r\nHost: 127.0.0.1\r\n",
        upgrade_request(Authorization="Bearer wrong"),
    ],
)
def test_silent_connections_lock_nobody_out(ends: list[socket.socket], head: bytes) -> None:
    """More of them than a worker takes, before and while somebody works with it."""

    def flood(port: int) -> None:
        for _ in range(300):
            sock = socket.create_connection(("127.0.0.1", port), timeout=30)
            sock.sendall(head)
            ends.append(sock)

    with ThreadWorker(FunctionBackend(), token=TOKEN) as worker:
        flood(worker.port)
        with connect(worker.url, TOKEN, retry_s=0.1) as session:
            model = session.model("double")
            assert torch.equal(model(torch.ones(3)), torch.full((3,), 2.0))
            flood(worker.port)
            assert torch.equal(model(torch.ones(3)), torch.full((3,), 2.0))
        assert model.last_timings is not None
        assert model.last_timings.exchanges == 1


def test_a_silent_connection_is_waited_for_no_longer_than_its_patience(ends: list[socket.socket]) -> None:
    def answer(request: Request) -> Reply:
        if request.path == "/mine":
            request.connection.trust()
        return Reply(401 if request.path == "/wrong" else 200)

    with ExitStack() as ending:
        server = HttpServer(answer, listen("127.0.0.1", 0), limits=ServerLimits(first_s=0.2, idle_s=3600))
        ending.callback(server.close)

        def made(path: bytes = b"") -> socket.socket:
            sock = socket.create_connection(server.address, timeout=30)
            ends.append(sock)
            if path:
                sock.sendall(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n")
                assert sock.recv(1000).startswith(b"HTTP/1.1 ")
            return sock

        stay = [made(b"/mine"), made(b"/ping")]
        assert made().recv(10) == b""
        assert made(b"/wrong").recv(10) == b""
        slow = made()
        slow.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX: ")
        assert slow.recv(10) == b""
        for sock in stay:
            sock.sendall(b"GET /mine HTTP/1.1\r\nHost: x\r\n\r\n")
            assert sock.recv(1000).startswith(b"HTTP/1.1 200")


def test_wrong_tokens_are_counted_logged_and_never_shown(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with ThreadWorker(FunctionBackend(), token=TOKEN) as worker:
        for wrong in ("wrong-token-1", None):  # each is sent twice: damage on the way can look like a refusal
            with pytest.raises(UnauthorizedError, match="COMFY_GPU_OFFLOAD_TOKEN"):
                connect(worker.url, wrong)
        with connect(worker.url, TOKEN) as session:
            assert torch.equal(session.model("echo")(torch.ones(1)), torch.ones(1))
    said = [record.message for record in caplog.records if "from 127.0.0.1" in record.message]
    assert said == [
        "refused a wrong token from 127.0.0.1 (1 from there so far)",
        "refused a wrong token from 127.0.0.1 (2 from there so far)",
        "refused a request without a token from 127.0.0.1 (3 from there so far)",
    ]
    assert "wrong-token" not in caplog.text
    assert TOKEN not in caplog.text


def test_each_wrong_token_waits_longer_up_to_a_bound_and_is_logged_seldom(
    caplog: pytest.LogCaptureFixture,
) -> None:
    wrong = WrongTokens()
    waits = [wrong.note("10.0.0.1", is_missing=False) for _ in range(1000)]
    assert waits[:4] == [0.25, 0.5, 1.0, 2.0]
    assert set(waits[4:]) == {2.0}
    assert wrong.note("10.0.0.2", is_missing=False) == 0.25
    assert len([record for record in caplog.records if "10.0.0.1" in record.message]) == 6


def test_a_wrong_token_that_waits_holds_up_neither_a_right_one_nor_the_end() -> None:
    released = threading.Event()

    def answer(request: Request) -> Reply:
        return Reply(401, after_s=3600.0) if request.path == "/wrong" else Reply(200)

    server = HttpServer(answer, listen("127.0.0.1", 0))
    with socket.create_connection(server.address, timeout=30) as slowed:
        slowed.sendall(b"GET /wrong HTTP/1.1\r\nHost: x\r\n\r\n")
        with socket.create_connection(server.address, timeout=30) as right:
            right.sendall(b"GET /right HTTP/1.1\r\nHost: x\r\n\r\n")
            assert right.recv(1000).startswith(b"HTTP/1.1 200")
        closing = threading.Thread(target=lambda: (server.close(1.0), released.set()))
        closing.start()
        assert slowed.recv(10) == b""
        closing.join(30)
    assert released.is_set()
