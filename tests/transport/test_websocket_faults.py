"""Connections that are cut or altered anywhere, slow, or many: every end is an error of ours, and bounded."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from time import monotonic, sleep

import psutil
import pytest
import torch
from tests.support.backend import FunctionBackend
from tests.support.breaking_proxy import BreakingProxy
from tests.support.tcp_proxy import TcpProxy, Way
from tests.support.websocket_client import WebSocketClient, upgrade_request
from tests.support.worker import ThreadWorker

from comfy_gpu_offload import connect
from comfy_gpu_offload.config.address import Address
from comfy_gpu_offload.errors import FrameError, TransportError
from comfy_gpu_offload.net.websocket.handshake import UpgradeRefusedError
from comfy_gpu_offload.protocol.envelope import open_frame, seal
from comfy_gpu_offload.protocol.messages import Cancel, Cancelled, Fault
from comfy_gpu_offload.transport.base import Timeouts
from comfy_gpu_offload.transport.connector import connector_to
from comfy_gpu_offload.transport.websocket_transport import WebSocketTransport

PATIENT = Timeouts(connect_s=60.0, exchange_s=60.0, silence_s=60.0)
HASTY = Timeouts(connect_s=60.0, exchange_s=0.7, silence_s=0.4)
SMALL = seal(Cancel(request="no-such-request"))
CONNECTS = 2000


class FlippingProxy(TcpProxy[None]):
    """Flips one bit.

    Attributes:
        flip: the way, the position from now on, and the bit; None once it was flipped.
    """

    def __init__(self, target: int) -> None:
        self.flip: tuple[Way, int, int] | None = None
        super().__init__(target)

    def _new_state(self) -> None:
        return None

    def _passed(self, piece: bytes, way: Way, connection: None) -> tuple[bytes, bool]:
        if self.flip is None or self.flip[0] != way:
            return piece, True
        _, position, bit = self.flip
        if position >= len(piece):
            self.flip = (way, position - len(piece), bit)
            return piece, True
        self.flip = None
        altered = bytearray(piece)
        altered[position] ^= 1 << bit
        return bytes(altered), True


@pytest.fixture(scope="module")
def worker() -> Iterator[ThreadWorker]:
    with ThreadWorker(FunctionBackend()) as made:
        yield made


def transport_to(url: str) -> WebSocketTransport:
    address = Address.parse(url)
    return WebSocketTransport(address, connector_to(address))


def ends_well(transport: WebSocketTransport, timeouts: Timeouts) -> bool:
    """Make a small exchange; return whether it was answered as it should, and raise for errors not of ours."""
    try:
        message = open_frame(transport.exchange("cancel", SMALL, timeouts)).message
    except (TransportError, UpgradeRefusedError, FrameError):
        return False
    assert isinstance(message, Cancelled | Fault)
    return isinstance(message, Cancelled)


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_connection_cut_at_every_byte_ends_in_an_error_of_ours(worker: ThreadWorker, way: Way) -> None:
    with BreakingProxy(worker.port) as proxy:
        assert ends_well(transport_to(proxy.url), PATIENT)
        total = getattr(proxy, way)
    assert 300 < total < 1500
    for position in range(total - 1):
        with BreakingProxy(worker.port) as proxy:
            setattr(proxy, f"break_after_{way}", position)
            transport = transport_to(proxy.url)
            is_exact = ends_well(transport, PATIENT)
            was_cut = getattr(proxy, f"break_after_{way}") is None
            # What goes last is a sign of life, which may as well be cut as not.
            assert is_exact != was_cut or position > total - 60, position
            setattr(proxy, f"break_after_{way}", None)
            assert ends_well(transport, PATIENT), position
            transport.close()


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_bit_flipped_anywhere_ends_in_an_error_of_ours(worker: ThreadWorker, way: Way) -> None:
    with FlippingProxy(worker.port) as proxy, BreakingProxy(worker.port) as counting:
        assert ends_well(transport_to(counting.url), PATIENT)
        for position in range(0, getattr(counting, way), 5):
            transport = transport_to(proxy.url)
            proxy.flip = (way, position, position % 8)
            ends_well(transport, HASTY)
            proxy.flip = None
            assert ends_well(transport, PATIENT), position
            transport.close()


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_sessions_retry_makes_a_cut_or_altered_call_exact(worker: ThreadWorker, way: Way) -> None:
    x = torch.randn(1000)
    for fault in ("break", "alter"):
        for position in (0, 100, 250, 400, 600, 1500):
            with BreakingProxy(worker.port) as proxy:
                setattr(proxy, f"{fault}_after_{way}", position)
                with connect(proxy.url, retry_s=60, silence_s=1) as session:
                    model = session.model("double")
                    for _ in range(3):
                        assert torch.equal(model(x), x * 2)
                assert getattr(proxy, f"{fault}_after_{way}") is None


def test_a_reader_as_slow_as_can_be_gets_all_of_it(worker: ThreadWorker) -> None:
    with socket.create_connection(("127.0.0.1", worker.port), timeout=30) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.sendall(upgrade_request())
        frame = bytes(SMALL.joined())
        piece = b"\x01\x01\x00\x00\x00\x03" + frame
        sock.sendall(b"\x82\xfe" + len(piece).to_bytes(2, "big") + bytes(4) + piece)
        got = b""
        while b"unknown" not in got:
            got += sock.recv(1)


def until(condition: object) -> None:
    deadline = monotonic() + 60
    while not condition():  # type: ignore[operator]
        assert monotonic() < deadline
        sleep(0.02)


def vanish(port: int) -> None:
    """Connect and say nothing."""
    socket.create_connection(("127.0.0.1", port), timeout=30).close()


def begin_an_upgrade(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
        sock.sendall(upgrade_request()[:100])


def ask_as_a_page(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
        sock.sendall(upgrade_request(Origin="https://evil.example"))
        sock.recv(100)


def leave_an_open_websocket(port: int) -> None:
    with WebSocketClient(port) as client:
        client.begin(1, bytes(SMALL.joined())[:20])


def leave_politely(port: int) -> None:
    with WebSocketClient(port) as client:
        client.link.close()


def test_after_thousands_of_connects_nothing_is_left(worker: ThreadWorker) -> None:
    kinds = (vanish, begin_an_upgrade, ask_as_a_page, leave_an_open_websocket, leave_politely)
    for kind in kinds:  # what is made once is made now
        kind(worker.port)
    until(lambda: not worker_threads())
    process = psutil.Process()
    files, memory = process.num_fds(), process.memory_info().rss
    for count in range(CONNECTS):
        kinds[count % len(kinds)](worker.port)
        if count % 100 == 0:
            assert len(worker_threads()) <= 256
    until(lambda: not worker_threads())
    assert process.num_fds() <= files + 2
    assert process.memory_info().rss - memory < 64 * 1024**2
    assert ends_well(transport_to(worker.url), PATIENT)


def worker_threads() -> list[threading.Thread]:
    names = ("comfy-gpu-offload-connection", "comfy-gpu-offload-exchange", "comfy-gpu-offload-websocket")
    return [thread for thread in threading.enumerate() if thread.name in names]
