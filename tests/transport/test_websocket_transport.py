"""Exchanges over one WebSocket: several at a time, interrupts, losses, over TLS too."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from time import monotonic, sleep

import pytest
import torch
from tests.support.backend import FunctionBackend
from tests.support.breaking_proxy import BreakingProxy
from tests.support.refusing_proxy import RefusingProxy, answer_of
from tests.support.tls import self_signed, server_context
from tests.support.worker import ThreadWorker
from tests.transport.conformance.calls import MODELS, TIMEOUTS, Call, Calls, StopError

from comfy_gpu_offload.config.address import Address
from comfy_gpu_offload.errors import ConnectionLostError, SilentConnectionError
from comfy_gpu_offload.net.websocket.handshake import UpgradeRefusedError
from comfy_gpu_offload.protocol.envelope import open_frame, seal
from comfy_gpu_offload.protocol.messages import Cancel, Cancelled, Probe, Probed
from comfy_gpu_offload.transport.base import Timeouts
from comfy_gpu_offload.transport.connector import connector_to
from comfy_gpu_offload.transport.websocket_transport import WebSocketTransport

QUICK = Timeouts(connect_s=30.0, exchange_s=60.0, silence_s=1.0)
MB = 1_000_000


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return self_signed(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def backend() -> FunctionBackend:
    return FunctionBackend(**MODELS)


class Reach:
    """A worker, a proxy before it that disturbs, and a transport through that."""

    def __init__(self, worker: ThreadWorker, proxy: BreakingProxy, ca_file: Path | None) -> None:
        self.worker, self.proxy = worker, proxy
        address = Address(worker.address.scheme, "127.0.0.1", proxy.port)
        self.transport = WebSocketTransport(address, connector_to(address, ca_file))


@pytest.fixture(params=["plain", "TLS"])
def reach(
    request: pytest.FixtureRequest, backend: FunctionBackend, certificate: tuple[Path, Path]
) -> Iterator[Reach]:
    is_tls = request.param == "TLS"
    with (
        ThreadWorker(backend, tls=server_context(certificate) if is_tls else None) as worker,
        BreakingProxy(worker.port) as proxy,
    ):
        made = Reach(worker, proxy, certificate[0] if is_tls else None)
        yield made
        backend.release.set()
        made.transport.close()


class Made(threading.Thread):
    """A call on a thread of its own."""

    def __init__(self, work: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self.error: BaseException | None = None
        self._work = work
        self.start()

    def run(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self.error = error

    def ended(self) -> BaseException | None:
        self.join(60)
        assert not self.is_alive()
        return self.error


def until(condition: Callable[[], bool]) -> None:
    deadline = monotonic() + 60
    while not condition():
        assert monotonic() < deadline
        sleep(0.01)


def cancelled(transport: WebSocketTransport) -> Cancelled:
    frame = seal(Cancel(request="no-such-request"))
    message = open_frame(transport.exchange("cancel", frame, TIMEOUTS)).message
    assert isinstance(message, Cancelled)
    return message


def probed(transport: WebSocketTransport) -> Probed:
    frame = seal(Probe(client="a-client-under-test", reply_bytes=0, request="a-probe-of-the-link"))
    message = open_frame(transport.exchange("hello", frame, TIMEOUTS)).message
    assert isinstance(message, Probed)
    return message


def test_many_calls_at_a_time_on_one_connection_get_their_own_replies(reach: Reach) -> None:
    calls = Calls()

    def some(sizes: list[int]) -> None:
        for size in sizes:
            calls.echo(size).made(reach.transport)

    made = [Made(lambda: some([10, 100_000, 1, 3 * MB, 70_000] * 2)) for _ in range(6)]
    assert [each.ended() for each in made] == [None] * 6
    assert reach.proxy.connections == 1


def test_a_cancel_and_a_probe_pass_a_large_frame_that_a_slow_link_carries(reach: Reach) -> None:
    Calls().echo().made(reach.transport)
    reach.proxy.rate = 20 * MB
    large = Made(lambda: Calls().first_byte(30 * MB).made(reach.transport))
    until(lambda: reach.proxy.up > 1 * MB)
    cancelled(reach.transport)
    probed(reach.transport)
    assert large.is_alive()
    assert reach.proxy.up < 20 * MB
    reach.proxy.rate = None
    assert large.ended() is None
    assert reach.proxy.connections == 1


def test_a_cancel_passes_a_large_reply_that_a_slow_link_carries(reach: Reach) -> None:
    Calls().echo().made(reach.transport)
    reach.proxy.rate = 20 * MB
    large = Made(lambda: Calls().repeated(30 * MB).made(reach.transport))
    until(lambda: reach.proxy.down > 1 * MB)
    cancelled(reach.transport)
    assert large.is_alive()
    reach.proxy.rate = None
    assert large.ended() is None


def test_an_interrupt_ends_a_waiting_send_and_no_other_exchange(reach: Reach, backend: FunctionBackend) -> None:
    transport = reach.transport
    Calls().echo().made(transport)
    stop = threading.Event()

    def check() -> None:
        if stop.is_set():
            raise StopError

    waiting = Made(lambda: Calls().wait().made(transport))
    assert backend.started.wait(60)
    reach.proxy.stall_after_up = reach.proxy.up + MB
    large = Made(lambda: Calls().first_byte(30 * MB).made(transport, TIMEOUTS, check))
    until(lambda: reach.proxy.hung > 0)
    stop.set()
    assert isinstance(large.ended(), StopError)
    other = Made(lambda: probed(transport))  # on another connection: this one hangs, as far as is known
    assert other.ended() is None
    assert reach.proxy.connections == 2
    assert waiting.is_alive()


def test_after_an_interrupt_the_same_connection_goes_on_if_it_answers(
    reach: Reach, backend: FunctionBackend
) -> None:
    transport, began = reach.transport, threading.Event()

    def check() -> None:
        if backend.started.is_set():
            began.set()
            raise StopError

    assert isinstance(Made(lambda: Calls().wait().made(transport, TIMEOUTS, check)).ended(), StopError)
    assert began.is_set()
    connection = transport._connection
    assert connection is not None
    until(lambda: not connection._link.unanswered_pings)
    backend.release.set()
    Calls().echo().made(transport)
    assert reach.proxy.connections == 1
    assert not connection._open


def test_a_connection_that_hangs_ends_all_that_is_under_way_on_it(reach: Reach) -> None:
    Calls().echo().made(reach.transport)
    reach.proxy.silent = True
    made = [Made(lambda: Calls().echo().made(reach.transport, QUICK)) for _ in range(3)]
    assert {type(each.ended()) for each in made} <= {SilentConnectionError, ConnectionLostError}
    reach.proxy.start_again()
    Calls().echo().made(reach.transport)


def test_a_step_that_takes_longer_than_silence_may_is_no_silence(reach: Reach, backend: FunctionBackend) -> None:
    call = Calls().wait()
    made = Made(lambda: call.made(reach.transport, QUICK))
    assert backend.started.wait(60)
    sleep(1.5 * QUICK.silence_s)
    assert made.is_alive()
    backend.release.set()
    assert made.ended() is None


def test_a_connection_that_was_idle_for_long_is_opened_anew(reach: Reach, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("comfy_gpu_offload.transport.websocket_connection._IDLE_S", 0.2)
    for _ in range(2):
        Calls().echo().made(reach.transport)
        connection = reach.transport._connection
        assert connection is not None
        until(partial(getattr, connection, "_is_closing"))
    assert reach.proxy.connections == 2


def test_one_thread_for_each_connection_is_left_and_none_after_its_end(reach: Reach) -> None:
    def count() -> int:
        return sum(thread.name == "comfy-gpu-offload-websocket" for thread in threading.enumerate())

    until(lambda: count() == 0)
    made = [Made(lambda: Calls().echo().made(reach.transport)) for _ in range(5)]
    assert [each.ended() for each in made] == [None] * 5
    assert count() == 1
    reach.transport.close()
    until(lambda: count() == 0)


@pytest.mark.parametrize(("status", "body"), [(404, b"<html>no</html>"), (200, b"<html>no</html>"), (502, b"")])
def test_a_refused_upgrade_is_told_with_its_status(status: int, body: bytes) -> None:
    with RefusingProxy(9) as proxy:
        proxy.answer = answer_of(status) if body else b"HTTP/1.1 502 Bad Gateway\r\n\r\n"
        address = Address.parse(proxy.url)
        transport = WebSocketTransport(address, connector_to(address))
        with pytest.raises(UpgradeRefusedError) as caught:
            Calls().echo().made(transport)
    assert (caught.value.status, caught.value.body) == (status, body)


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 101 Switch", b"SSH-2.0-OpenSSH\r\n", b"\x15\x03\x03\x00\x02\x02\x28"]
)
def test_an_upgrade_that_no_http_answers_is_a_loss(answer: bytes) -> None:
    with RefusingProxy(9) as proxy:
        proxy.answer = answer
        address = Address.parse(proxy.url)
        with pytest.raises(ConnectionLostError):
            Calls().echo().made(WebSocketTransport(address, connector_to(address)))


def test_an_upgrade_that_nobody_answers_is_silence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = Address("http", "127.0.0.1", listener.getsockname()[1])
        transport = WebSocketTransport(address, connector_to(address))
        with pytest.raises(SilentConnectionError, match="COMFY_GPU_OFFLOAD_SILENCE_S"):
            Calls().echo().made(transport, Timeouts(connect_s=30.0, silence_s=0.3))


def test_a_check_ends_the_wait_for_an_upgrade_and_for_another_threads_upgrade() -> None:
    stop = threading.Event()

    def check() -> None:
        if stop.is_set():
            raise StopError

    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = Address("http", "127.0.0.1", listener.getsockname()[1])
        transport = WebSocketTransport(address, connector_to(address))
        made = [Made(lambda: Calls().echo().made(transport, TIMEOUTS, check)) for _ in range(3)]
        with listener.accept()[0] as sock:
            sock.recv(1)
            stop.set()
            assert [type(each.ended()) for each in made] == [StopError] * 3


def test_an_exchange_with_two_replies_is_refused(reach: Reach, monkeypatch: pytest.MonkeyPatch) -> None:
    call: Call = Calls().echo()
    handle = reach.worker.handler.handle

    def stream(request: memoryview, *_: object, **__: object) -> Iterator[object]:
        yield handle(request)
        yield handle(request)

    Calls().echo().made(reach.transport)
    monkeypatch.setattr(reach.worker.handler, "stream", stream)
    with pytest.raises(ConnectionLostError, match="several replies"):
        reach.transport.exchange("sample", call.frame, TIMEOUTS)
    assert torch.equal(
        open_frame(reach.transport.exchange("forward", call.frame, TIMEOUTS)).unpack(), call.expected
    )


def test_a_system_without_poll_carries_as_well(reach: Reach, monkeypatch: pytest.MonkeyPatch) -> None:
    # As Windows, which has neither it nor a limit for what is unsent.
    monkeypatch.delattr("select.poll", raising=False)
    monkeypatch.delattr("socket.TCP_NOTSENT_LOWAT", raising=False)
    made = [Made(lambda: Calls().echo(3 * MB).made(reach.transport)) for _ in range(3)]
    cancelled(reach.transport)
    assert [each.ended() for each in made] == [None] * 3
