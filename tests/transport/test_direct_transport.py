"""The choice between a WebSocket and HTTP exchanges."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from time import monotonic

import pytest
from tests.support.backend import FunctionBackend
from tests.support.breaking_proxy import BreakingProxy
from tests.support.refusing_proxy import RefusingProxy, answer_of
from tests.support.worker import ThreadWorker
from tests.transport.conformance.calls import MODELS, Calls

from comfy_gpu_offload import Session, connect
from comfy_gpu_offload.config.address import Address
from comfy_gpu_offload.errors import ConnectionLostError, UnauthorizedError
from comfy_gpu_offload.net.websocket.handshake import Upgrade, accept
from comfy_gpu_offload.net.websocket.pieces import PATH
from comfy_gpu_offload.server.http import routes
from comfy_gpu_offload.transport import direct_transport
from comfy_gpu_offload.transport.base import Timeouts
from comfy_gpu_offload.transport.connector import connector_to
from comfy_gpu_offload.transport.direct_transport import DirectTransport
from comfy_gpu_offload.transport.http_transport import HttpTransport
from comfy_gpu_offload.transport.websocket_transport import WebSocketTransport

TIMEOUTS = Timeouts(connect_s=30.0, exchange_s=60.0, silence_s=1.0)
TOKEN = "the-token-of-this-worker"


@pytest.fixture
def worker() -> Iterator[ThreadWorker]:
    with ThreadWorker(FunctionBackend(**MODELS)) as made:
        yield made


@pytest.fixture
def proxy(worker: ThreadWorker) -> Iterator[RefusingProxy]:
    with RefusingProxy(worker.port) as made:
        yield made


@pytest.fixture
def transport_to() -> Iterator[Callable[[str], DirectTransport]]:
    made: list[DirectTransport] = []

    def make(url: str) -> DirectTransport:
        address = Address.parse(url)
        transport = DirectTransport(WebSocketTransport(address, connector_to(address)), HttpTransport(address))
        made.append(transport)
        return transport

    yield make
    for each in made:
        each.close()


def call(transport: DirectTransport) -> None:
    Calls().echo(10_000).made(transport, TIMEOUTS)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelno >= logging.WARNING]


class Clock:
    """The clock of the choice, which a test may put forward."""

    def __init__(self) -> None:
        self._ahead_s = 0.0

    def __call__(self) -> float:
        return monotonic() + self._ahead_s

    def pass_by(self) -> None:
        """Have the time be over for which a passing refusal is believed."""
        self._ahead_s += 2 * direct_transport._ASK_AGAIN_S


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(direct_transport, "monotonic", made)
    return made


@pytest.mark.parametrize("status", [200, 302, 400, 403, 404, 405, 426, 501])
def test_a_refusal_is_believed_when_it_comes_twice(
    proxy: RefusingProxy,
    transport_to: Callable[[str], DirectTransport],
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
    status: int,
) -> None:
    proxy.answer, transport = answer_of(status), transport_to(proxy.url)
    for _ in range(3):
        call(transport)
    assert proxy.upgrades == 1
    clock.pass_by()
    call(transport)
    assert proxy.upgrades == 2
    clock.pass_by()
    call(transport)
    assert proxy.upgrades == (3 if status == 501 else 2)
    (warning,) = warnings(caplog)
    for part in (proxy.url, str(status), "three times"):
        assert part in warning
    assert transport.carrier.name == "single HTTP requests"
    assert str(status) in str(transport.carrier.slower_why)


@pytest.mark.parametrize("answer", [answer_of(502), answer_of(503), answer_of(429), b"", b"SSH-2.0-OpenSSH\r\n"])
def test_what_may_pass_is_asked_again_and_told_once(
    proxy: RefusingProxy,
    transport_to: Callable[[str], DirectTransport],
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
    answer: bytes,
) -> None:
    caplog.set_level(logging.INFO)
    proxy.answer, transport = answer, transport_to(proxy.url)
    for asked in (1, 2, 3):
        call(transport)
        call(transport)
        assert proxy.upgrades == asked
        clock.pass_by()
    assert len(warnings(caplog)) == 1
    proxy.answer = None
    call(transport)
    assert transport.carrier.name == "WebSocket"
    assert transport.carrier.slower_why is None
    assert any("by a WebSocket from now on" in record.message for record in caplog.records)


def test_silence_in_place_of_an_answer_is_a_refusal(
    proxy: RefusingProxy, transport_to: Callable[[str], DirectTransport]
) -> None:
    proxy.answer, proxy.hangs = b"", True
    transport = transport_to(proxy.url)
    call(transport)
    assert transport.carrier.slower_why is not None


@pytest.mark.parametrize("fault", ["break_after_down", "silent_after_down"])
def test_a_websocket_on_which_nothing_ever_came_is_none(
    worker: ThreadWorker, transport_to: Callable[[str], DirectTransport], fault: str
) -> None:
    with BreakingProxy(worker.port) as proxy:
        transport = transport_to(proxy.url)
        request = Upgrade("worker", PATH, []).request.decode().split("\r\n")[1:-2]
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in request)}
        answer = accept(PATH, headers, method="GET", is_http_1_1=True).answer
        setattr(proxy, fault, len(answer))
        call(transport)
        assert transport.carrier.slower_why is not None
        assert getattr(proxy, fault) is None


def test_a_loss_after_a_reply_is_a_loss(
    worker: ThreadWorker, transport_to: Callable[[str], DirectTransport]
) -> None:
    with BreakingProxy(worker.port) as proxy:
        transport = transport_to(proxy.url)
        call(transport)
        proxy.break_after_down = proxy.down + 100
        with pytest.raises(ConnectionLostError):
            call(transport)
        call(transport)
        assert transport.carrier.slower_why is None


def test_an_older_workers_routes_are_used(worker: ThreadWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "PATH", "/unknown")
    with connect(worker.url) as session:
        assert "404" in str(session.carrier.slower_why)


def test_the_workers_own_refusal_is_not_taken_for_a_proxys() -> None:
    with ThreadWorker(FunctionBackend(), token=TOKEN) as worker, RefusingProxy(worker.port) as proxy:
        with pytest.raises(UnauthorizedError, match="COMFY_GPU_OFFLOAD_TOKEN"):
            connect(proxy.url, "another-token")
        assert proxy.upgrades == 2  # damage on the way can look like a refusal
        assert proxy.requests == 0


def test_a_name_that_is_not_allowed_is_told_with_what_to_do(worker: ThreadWorker) -> None:
    elsewhere = Address("http", "gpu.home", worker.port)
    near = connector_to(worker.address)
    transport = DirectTransport(WebSocketTransport(elsewhere, near), HttpTransport(elsewhere, connector=near))
    with pytest.raises(UnauthorizedError, match="--allow-host"):
        Session(transport)


def test_a_session_goes_on_by_http(proxy: RefusingProxy) -> None:
    proxy.answer = answer_of(400)
    with connect(proxy.url) as session:
        assert session.models()
        assert session.carrier.name == "single HTTP requests"
    proxy.answer = None
    with connect(proxy.url) as session:
        assert session.carrier.name == "WebSocket"


def test_a_run_goes_on_by_http(proxy: RefusingProxy, transport_to: Callable[[str], DirectTransport]) -> None:
    proxy.answer = answer_of(404)
    transport = transport_to(proxy.url)
    replies = list(transport.stream("sample", Calls().echo(100).frame, TIMEOUTS))
    assert len(replies) == 1
    assert transport.carrier.slower_why is not None
