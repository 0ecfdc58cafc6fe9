"""The worker's end of a WebSocket, against clients that do right and wrong."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic, sleep

import pytest
import torch
from tests.support.backend import FunctionBackend
from tests.support.frames import forward_frame
from tests.support.websocket_client import CANCEL, FORWARD, HELLO, SAMPLE, WebSocketClient
from tests.support.worker import ThreadWorker

from comfy_gpu_offload.io.frame import FrameLimits
from comfy_gpu_offload.net.websocket.link import LinkClosedError
from comfy_gpu_offload.net.websocket.pieces import Kind
from comfy_gpu_offload.protocol.envelope import seal
from comfy_gpu_offload.protocol.messages import Cancel, Cancelled, Fault, FaultCode, Probe, Probed, Result
from comfy_gpu_offload.server.handler import Handler, HandlerOptions
from comfy_gpu_offload.server.http.routes import Routes, WorkerState
from comfy_gpu_offload.server.http.server import HttpServer, ServerLimits, listen
from comfy_gpu_offload.server.websocket.connection import ROUTES
from comfy_gpu_offload.server.websocket.exchange_threads import ExchangeThreads
from comfy_gpu_offload.server.websocket.limits import WebSocketLimits
from comfy_gpu_offload.transport.websocket_connection import ROUTE_NUMBERS

SHORT = 0.7


class Server:
    """A worker with limits of its own. It is still starting until `start`."""

    def __init__(self, limits: WebSocketLimits, frames: FrameLimits) -> None:
        self.backend = FunctionBackend()
        self._state = WorkerState(frames)
        self._handler = Handler(self.backend, HandlerOptions(frames))
        self.http = HttpServer(Routes(self._state, limits=limits), listen("127.0.0.1", 0), limits=ServerLimits())
        self._stack: list[WebSocketClient] = []

    def start(self) -> None:
        self._state.handler = self._handler

    def has_waiting(self) -> bool:
        return self._handler._parts.executor.has_waiting()

    def client(self) -> WebSocketClient:
        self._stack.append(WebSocketClient(self.http.address[1]))
        return self._stack[-1]

    def close(self) -> None:
        self.backend.release.set()
        for client in self._stack:
            client.close()
        self._handler.close(30)
        self.http.close()


@contextmanager
def serving(frame_bytes: int = FrameLimits().frame_bytes, **limits: float) -> Iterator[Server]:
    server = Server(WebSocketLimits(**limits), FrameLimits(frame_bytes=frame_bytes))  # type: ignore[arg-type]
    server.start()
    yield server
    server.close()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as made:
        yield made


def call(request: str, model: str = "echo", size: int = 10) -> bytes:
    return bytes(forward_frame(torch.zeros(size), model=model, request=f"request-{request}").joined())


def probe(down_bytes: int = 0) -> bytes:
    return bytes(seal(Probe(client="c" * 16, reply_bytes=down_bytes, request="p" * 16)).joined())


def until(condition: object) -> None:
    deadline = monotonic() + 30
    while not condition():  # type: ignore[operator]
        assert monotonic() < deadline
        sleep(0.01)


def test_exchanges_are_answered_each_under_its_number(server: Server) -> None:
    client = server.client()
    client.begin(7, probe(), HELLO)
    client.begin(9, call("one")[:5])
    client.begin(12, call("two"))
    client.send(Kind.DATA, 9, call("one")[5:])
    assert isinstance(client.reply(7), Probed)
    for number, name in ((9, "one"), (12, "two")):
        reply = client.reply(number)
        assert isinstance(reply, Result)
        assert reply.request == f"request-{name}"


@pytest.mark.parametrize(
    ("pieces", "code"),
    [
        ([(Kind.BEGIN, 0, b"\x01")], 1002),
        ([(Kind.BEGIN, 1, b"")], 1002),
        ([(Kind.BEGIN, 1, b"\x00")], 1002),
        ([(Kind.BEGIN, 1, b"\x05")], 1002),
        ([(Kind.BEGIN, 2, b"\x01"), (Kind.BEGIN, 2, b"\x01")], 1002),
        ([(Kind.BEGIN, 2, b"\x01"), (Kind.BEGIN, 1, b"\x01")], 1002),
        ([(Kind.DATA, 1, b"a")], 1002),
        ([(Kind.DATA, 0, b"a")], 1002),
        ([(Kind.END, 1, b"")], 1002),
        ([(Kind.WAITING, 1, b"")], 1002),
        ([(Kind.BEGIN, 1, b"\x02" + call("one") + b"more")], 1002),
        ([(Kind.BEGIN, 1, b"\x02" + call("one") + call("two"))], 1002),
        ([(Kind.BEGIN, 1, b"\x02" + call("one", "wait")), (Kind.DATA, 1, b"more")], 1002),
    ],
)
def test_what_breaks_the_rules_ends_the_connection(
    server: Server, pieces: list[tuple[int, int, bytes]], code: int
) -> None:
    client = server.client()
    for piece in pieces:
        client.send(*piece)
    with pytest.raises(LinkClosedError) as caught:
        client.until_closed()
    assert caught.value.code == code
    assert caught.value.reason


@pytest.mark.parametrize("frame", [b"no frame at all, and more", call("one")[:8] + b"\xff" * 16])
def test_what_is_no_frame_is_refused_and_the_rest_of_it_dropped(server: Server, frame: bytes) -> None:
    client = server.client()
    client.begin(1, frame)
    for _ in range(3):
        client.send(Kind.DATA, 1, bytes(1000))
    reply = client.reply(1)
    assert isinstance(reply, Fault)
    assert reply.code in {FaultCode.BAD_FRAME, FaultCode.TOO_LARGE}
    client.begin(2, call("two"))
    assert isinstance(client.reply(2), Result)


def test_a_request_that_was_dropped_in_its_middle_is_forgotten(server: Server) -> None:
    client = server.client()
    client.begin(1, call("one")[:30])
    client.send(Kind.DROP, 1)
    client.send(Kind.DATA, 1, call("one")[30:])
    client.send(Kind.DROP, 1)
    client.begin(2, call("two"))
    assert isinstance(client.reply(2), Result)
    assert len(server.backend.calls) == 1


@pytest.mark.parametrize("sent", [b"", call("one")[:10], call("one")[:-1]])
def test_a_request_whose_rest_does_not_come_ends_the_connection(sent: bytes) -> None:
    with serving(progress_s=SHORT) as server:
        client = server.client()
        client.begin(1, sent)

        def stay() -> None:
            while True:
                client.send(Kind.WARM)
                client.link.receive(0.05)

        with pytest.raises(LinkClosedError, match="rest of a request did not come") as caught:
            stay()
        assert caught.value.code == 1008


def test_a_client_without_signs_of_life_is_gone() -> None:
    with serving(progress_s=SHORT) as quick:
        client = quick.client()
        client.begin(1, call("one", "wait"))
        assert quick.backend.started.wait(30)
        client.gives_signs = False
        with pytest.raises(LinkClosedError, match="no sign of life"):
            client.until_closed()


def test_signs_of_life_come_while_an_exchange_is_open_and_keep_it() -> None:
    with serving(progress_s=SHORT) as quick:
        client = quick.client()
        client.begin(1, call("one", "wait"))
        for _ in range(10):  # each comes after 0.1 s
            client.send(Kind.WARM)
            assert any(piece.kind is Kind.WARM for piece in client.link.receive(30))
        quick.backend.release.set()
        assert isinstance(client.reply(1), Result)


def test_a_connection_on_which_nothing_is_asked_is_closed() -> None:
    with serving(idle_s=SHORT) as server:
        client = server.client()
        client.begin(1, call("one"))
        assert isinstance(client.reply(1), Result)
        with pytest.raises(LinkClosedError) as caught:
            client.until_closed()
        assert caught.value.code == 1000


def test_more_exchanges_than_allowed_are_told_to_come_back() -> None:
    with serving(exchanges=2) as server:
        client = server.client()
        for number in (1, 2, 3):
            client.begin(number, call(f"wait-{number}", "wait"))
        reply = client.reply(3)
        assert isinstance(reply, Fault)
        assert (reply.code, reply.retryable) == (FaultCode.BUSY, True)
        server.backend.release.set()
        assert isinstance(client.reply(1), Result)
        client.begin(4, call("four"))
        assert isinstance(client.reply(4), Result)


def test_requests_that_wait_hold_no_more_memory_than_one_frame_may_have() -> None:
    with serving(frame_bytes=100_000) as server:
        client = server.client()
        client.begin(1, call("one", "wait", size=15_000))
        assert server.backend.started.wait(30)
        client.begin(2, call("two", size=15_000)[:100])
        reply = client.reply(2)
        assert isinstance(reply, Fault)
        assert (reply.code, reply.retryable) == (FaultCode.BUSY, True)
        client.begin(3, probe(), HELLO)  # a small one is taken
        assert isinstance(client.reply(3), Probed)


def test_a_system_without_threads_is_a_busy_one(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    client = server.client()
    client.begin(1, call("one"))
    assert isinstance(client.reply(1), Result)

    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(ExchangeThreads, "run", refuse)
        client.begin(2, call("two"))
        reply = client.reply(2)
    assert isinstance(reply, Fault)
    assert reply.code is FaultCode.BUSY
    client.begin(3, call("three"))
    assert isinstance(client.reply(3), Result)


def test_while_the_worker_starts_it_says_so_before_the_request_is_whole() -> None:
    server = Server(WebSocketLimits(), FrameLimits())
    client = server.client()
    client.begin(1, call("one")[:10])
    reply = client.reply(1)
    assert isinstance(reply, Fault)
    assert reply.code is FaultCode.BUSY
    client.send(Kind.DATA, 1, call("one")[10:])
    server.start()
    client.begin(2, call("two"))
    assert isinstance(client.reply(2), Result)
    server.close()


def test_a_cancel_passes_a_call_that_is_computed(server: Server) -> None:
    client = server.client()
    client.begin(1, call("one", "wait"))
    assert server.backend.started.wait(30)
    client.begin(2, bytes(seal(Cancel(request="request-one")).joined()), CANCEL)
    assert isinstance(client.reply(2), Cancelled)
    reply = client.reply(1)
    assert isinstance(reply, Fault)
    assert reply.code is FaultCode.CANCELLED


@pytest.mark.parametrize("how", ["vanishes", "drops", "breaks the rules"])
def test_a_call_that_waits_for_a_client_that_is_gone_is_never_computed(server: Server, how: str) -> None:
    running, waiting = server.client(), server.client()
    running.begin(1, call("one", "wait"))
    assert server.backend.started.wait(30)
    waiting.begin(1, call("two", "double"))
    waiting.piece(lambda piece: piece.kind is Kind.WAITING)
    if how == "vanishes":
        waiting.close()
    elif how == "drops":
        waiting.send(Kind.DROP, 1)
    else:
        waiting.send(Kind.END, 1)
    until(lambda: not server.has_waiting())
    server.backend.release.set()
    assert isinstance(running.reply(1), Result)
    running.begin(2, call("three"))
    assert isinstance(running.reply(2), Result)
    assert [name for name, _, _ in server.backend.calls] == ["wait", "echo"]


def test_a_call_whose_client_vanishes_is_finished_and_kept_for_its_return(server: Server) -> None:
    first = server.client()
    first.begin(1, call("one", "wait"))
    assert server.backend.started.wait(30)
    first.close()
    second = server.client()
    second.begin(1, call("one", "wait"))
    server.backend.release.set()
    assert isinstance(second.reply(1), Result)
    assert len(server.backend.calls) == 1


def test_a_reply_that_nobody_reads_ends_the_connection_and_holds_up_nobody() -> None:
    with serving(progress_s=2 * SHORT, linger_s=0.1) as server:
        stuck, other = server.client(), server.client()
        stuck.begin(1, probe(down_bytes=50_000_000), HELLO)
        other.begin(1, call("one"))
        assert isinstance(other.reply(1), Result)
        until(lambda: has_ended(stuck))


def has_ended(client: WebSocketClient) -> bool:
    try:
        client.send(Kind.WARM)
    except LinkClosedError:
        return True
    return False


def test_a_client_that_never_reads_and_asks_ever_more_is_let_go() -> None:
    with serving(linger_s=0.1) as server:
        client = server.client()

        def ask() -> None:
            for number in range(1, 1_000_000):
                client.begin(number, b"no frame at all, and more")

        with pytest.raises(LinkClosedError):
            ask()


def test_a_server_that_stops_delivers_the_reply_and_says_goodbye() -> None:
    backend = FunctionBackend()
    with ThreadWorker(backend) as worker:
        client = WebSocketClient(worker.port)
        client.begin(1, call("one", "wait", size=2_000_000))
        assert backend.started.wait(30)
        stopping = threading.Thread(target=worker.stop)
        stopping.start()
        until(lambda: worker.handler._parts.executor._closed)
        client.begin(2, call("two"))
        refused = client.reply(2)
        assert isinstance(refused, Fault)
        assert refused.code is FaultCode.STOPPING
        backend.release.set()
        assert isinstance(client.reply(1), Result)
        with pytest.raises(LinkClosedError) as caught:
            client.until_closed()
        assert caught.value.code == 1001
        client.close()
        stopping.join(30)
        assert not stopping.is_alive()


def test_a_run_is_left_when_nobody_wants_it_any_more(server: Server) -> None:
    client = server.client()
    client.begin(1, call("one"), SAMPLE)
    reply = client.piece(lambda piece: piece.exchange == 1)
    assert reply.kind is Kind.DATA  # a fault: that is no run
    assert client.piece(lambda piece: piece.exchange == 1).kind is Kind.END


def test_threads_are_used_again_and_end_with_the_connection() -> None:
    threads = ExchangeThreads()
    seen: list[int] = []

    def work() -> None:
        seen.append(threading.get_ident())

    for count in range(1, 6):
        threads.run(work)
        until(lambda count=count: len(seen) == count and len(threads._idle) == 1)
    assert len(set(seen)) == 1
    threads.close()
    until(lambda: not any(thread.ident in seen for thread in threading.enumerate()))


def test_routes_have_the_numbers_of_both_ends() -> None:
    assert {name: number for number, name in enumerate(ROUTES, 1)} == ROUTE_NUMBERS
    assert tuple(ROUTE_NUMBERS.values()) == (HELLO, FORWARD, CANCEL, SAMPLE)
