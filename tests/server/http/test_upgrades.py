"""Requests for a WebSocket are let in by the rules for frames, and by those of RFC 6455."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator

import pytest
import torch
from tests.support.backend import FunctionBackend
from tests.support.frames import forward_frame
from tests.support.websocket_client import WebSocketClient, upgrade_request
from tests.support.worker import ThreadWorker

from comfy_gpu_offload.io.frame_reader import whole_frame
from comfy_gpu_offload.net.websocket.handshake import UpgradeRefusedError
from comfy_gpu_offload.protocol.envelope import open_frame
from comfy_gpu_offload.protocol.messages import Fault, FaultCode, Result
from comfy_gpu_offload.server.http.tokens import Tokens, token_digest

TOKEN = "0123456789abcdefghijklmnop"


@pytest.fixture
def backend() -> FunctionBackend:
    return FunctionBackend()


@pytest.fixture
def worker(backend: FunctionBackend) -> Iterator[ThreadWorker]:
    with ThreadWorker(backend) as made:
        yield made


@pytest.fixture
def guarded(backend: FunctionBackend) -> Iterator[ThreadWorker]:
    with ThreadWorker(backend, token=TOKEN) as made:
        yield made


def answer(port: int, request: bytes) -> tuple[int, bytes]:
    """Return the status and all of the answer to a request, after which the connection is no longer used."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
        sock.sendall(request)
        sock.shutdown(socket.SHUT_WR)
        whole = b"".join(iter(lambda: sock.recv(65536), b""))
    return int(whole.split(b" ", 2)[1]), whole


def changed(request: bytes, old: bytes, new: bytes) -> bytes:
    assert old in request
    return request.replace(old, new)


BROWSERS = [
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://127.0.0.1:8288"},
    {"Sec_Fetch_Site": "cross-site"},
    {"Sec_Fetch_Mode": "websocket"},
    {"Sec_Fetch_Dest": "websocket"},
]


@pytest.mark.parametrize("headers", BROWSERS)
@pytest.mark.parametrize("token", [None, TOKEN, "wrong"])
def test_what_a_browser_sends_is_refused_before_its_token_is_looked_at(
    guarded: ThreadWorker, caplog: pytest.LogCaptureFixture, headers: dict[str, str], token: str | None
) -> None:
    caplog.set_level(logging.INFO)
    authorization = {} if token is None else {"Authorization": f"Bearer {token}"}
    status, whole = answer(guarded.port, upgrade_request(**headers, **authorization))
    assert status == 403
    assert b"access-control" not in whole.lower()
    assert "token" not in caplog.text


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8288", "127.0.0.1.evil.example", "203.0.113.7:8288", "127.0.0.1, evil"]
)
def test_another_name_than_this_machines_is_refused_with_what_to_do(worker: ThreadWorker, host: str) -> None:
    status, whole = answer(worker.port, upgrade_request(host))
    assert status == 421
    frame = whole_frame(whole.partition(b"\r\n\r\n")[2])
    assert frame is not None
    fault = open_frame(frame).message
    assert isinstance(fault, Fault)
    assert "--allow-host" in fault.message


def test_with_a_token_any_name_is_taken(guarded: ThreadWorker) -> None:
    request = upgrade_request("gpu.home", Authorization=f"Bearer {TOKEN}")
    assert answer(guarded.port, request)[0] == 101


@pytest.mark.parametrize("token", [None, "another-token", TOKEN[:-1], TOKEN + "x"])
def test_a_wrong_token_is_refused_by_a_frame_counted_and_slowed(
    guarded: ThreadWorker, caplog: pytest.LogCaptureFixture, token: str | None
) -> None:
    caplog.set_level(logging.DEBUG)
    for count in (1, 2):
        with pytest.raises(UpgradeRefusedError) as caught:
            WebSocketClient(guarded.port, token=token)
        assert caught.value.status == 401
        frame = whole_frame(caught.value.body)
        assert frame is not None
        fault = open_frame(frame).message
        assert isinstance(fault, Fault)
        assert fault.code is FaultCode.UNAUTHORIZED
        assert f"({count} from there so far)" in caplog.text
    assert token is None or token not in caplog.text


@pytest.mark.parametrize(
    ("old", "new", "status"),
    [
        (b"GET ", b"POST ", 405),
        (b"GET ", b"HEAD ", 405),
        (b"HTTP/1.1", b"HTTP/1.0", 505),
        (b"Upgrade: websocket\r\n", b"", 426),
        (b"Upgrade: websocket", b"Upgrade: h2c", 426),
        (b"Connection: Upgrade", b"Connection: close", 426),
        (b"Version: 13", b"Version: 8", 426),
        (b"Version: 13", b"Version: 13\r\nSec-WebSocket-Version: 8", 426),
        (b"Sec-WebSocket-Key: ", b"Sec-WebSocket-Key: x", 400),
        (b"Sec-WebSocket-Key: ", b"X: ", 400),
        (b"comfy-gpu-offload.v1", b"comfy-gpu-offload.v9", 400),
        (b"Sec-WebSocket-Protocol: ", b"X: ", 400),
        (b"\r\n\r\n", b"\r\nContent-Length: 3\r\n\r\nabc", 400),
        (b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 400),
        (b"/v1/connect", b"/v1/connected", 404),
    ],
)
def test_what_is_no_upgrade_is_refused(worker: ThreadWorker, old: bytes, new: bytes, status: int) -> None:
    got, whole = answer(worker.port, changed(upgrade_request(), old, new))
    assert got == status
    if status == 426 and b"Version" in old:
        assert b"\r\nsec-websocket-version: 13\r\n" in whole.lower()
    with WebSocketClient(worker.port):
        pass


@pytest.mark.parametrize(
    "offer", ["permessage-deflate", "permessage-deflate; client_max_window_bits", "x, y;z=1", "{"]
)
def test_compression_that_is_offered_is_not_agreed_to(worker: ThreadWorker, offer: str) -> None:
    status, whole = answer(worker.port, upgrade_request(Sec_WebSocket_Extensions=offer))
    assert status == 101
    assert b"extensions" not in whole.lower()


def test_pieces_that_come_with_the_upgrade_are_taken(worker: ThreadWorker) -> None:
    frame = bytes(forward_frame(torch.ones(2)).joined())
    piece = b"\x01\x01\x00\x00\x00\x02" + frame
    masked = b"\x82\xfe" + len(piece).to_bytes(2, "big") + bytes(4) + piece
    with socket.create_connection(("127.0.0.1", worker.port), timeout=30) as sock:
        sock.sendall(upgrade_request() + masked)
        got = b""
        while b"request-1" not in got:
            got += sock.recv(65536)
        assert got.startswith(b"HTTP/1.1 101 ")


def test_a_token_that_is_revoked_ends_with_the_next_exchange_of_an_open_websocket(backend: FunctionBackend) -> None:
    issued = {token_digest("one")}
    frame = bytes(forward_frame(torch.ones(2)).joined())
    with (
        ThreadWorker(backend, tokens=Tokens(None, lambda: issued)) as worker,
        WebSocketClient(worker.port, token="one") as client,
    ):
        client.begin(1, frame)
        assert isinstance(client.reply(1), Result)
        issued.clear()
        client.begin(2, frame)
        fault = client.reply(2)
    assert isinstance(fault, Fault)
    assert fault.code is FaultCode.UNAUTHORIZED
    assert len(backend.calls) == 1
