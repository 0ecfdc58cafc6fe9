from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
import requests
from aiohttp import WSMsgType, web
from tests.support.aiohttp_server import AiohttpServer
from tests.support.edge_workers import WORKER_HEADER
from tests.support.faults import Fault, bad_gateway
from tests.support.runpod_edge import NO_WORKERS, EdgeLimits, LoadBalancerEdge

PROTOCOL = "echo.v1"
BRIEF = EdgeLimits(hold_s=0.2, strict_hold_s=0.2, ping_s=0.02)

Client = aiohttp.ClientWebSocketResponse


class EchoSockets(AiohttpServer):
    """A worker whose WebSocket says again what it hears, and sends so many bytes when it is told a number."""

    def __init__(self) -> None:
        super().__init__()
        self.headers: list[dict[str, str]] = []
        self.heard: list[WSMsgType] = []
        self.is_open = 0
        self._app.router.add_get("/ping", self._ping)
        self._app.router.add_get("/v1/connect", self._connect)
        self._app.router.add_get("/v1/refuse", self._refuse)

    async def _ping(self, request: web.Request) -> web.Response:
        return web.Response()

    async def _refuse(self, request: web.Request) -> web.Response:
        return web.Response(status=401, body=b"the worker's own words", headers={"X-Own": "kept"})

    async def _connect(self, request: web.Request) -> web.WebSocketResponse:
        self.headers.append(dict(request.headers))
        socket = web.WebSocketResponse(protocols=(PROTOCOL,), autoping=False, max_msg_size=0, timeout=0.2)
        await socket.prepare(request)
        self.is_open += 1
        try:
            async for message in socket:
                self.heard.append(message.type)
                if message.type is WSMsgType.PING:
                    await socket.pong(message.data)
                elif message.type is WSMsgType.TEXT:
                    await socket.send_bytes(bytes(int(message.data)))
                else:
                    await socket.send_bytes(message.data)
        finally:
            self.is_open -= 1
            self._notify()
        return socket


@pytest.fixture
def worker() -> Iterator[EchoSockets]:
    with EchoSockets() as made:
        yield made


@pytest.fixture
def edge(worker: EchoSockets) -> Iterator[LoadBalancerEdge]:
    with LoadBalancerEdge(worker.url, limits=BRIEF) as made:
        assert made.wait_until_ready()
        yield made


@asynccontextmanager
async def opened(edge: LoadBalancerEdge, key: str | None = None, **headers: str) -> AsyncIterator[Client]:
    sent = {"Authorization": f"Bearer {key or edge.key}", **headers}
    async with (
        aiohttp.ClientSession(headers=sent) as session,
        session.ws_connect(f"{edge.url}/v1/connect", protocols=(PROTOCOL,), max_msg_size=0) as socket,
    ):
        yield socket


def talked(edge: LoadBalancerEdge, talk: Callable[[Client], Coroutine[Any, Any, Any]], **headers: str) -> Any:
    """Return what `talk` returns of a WebSocket through the edge."""

    async def run() -> Any:
        async with asyncio.timeout(60), opened(edge, **headers) as socket:
            return await talk(socket)

    return asyncio.run(run())


async def echo(socket: Client, data: bytes = b"hello") -> bytes:
    await socket.send_bytes(data)
    return await socket.receive_bytes()


async def last_word(socket: Client) -> int | None:
    """Return the code that the other end closed the connection with; None where it ended without a word."""
    message = await socket.receive()
    while message.type is WSMsgType.BINARY:
        message = await socket.receive()
    return message.data if message.type is WSMsgType.CLOSE else None


def upgrade(edge: LoadBalancerEdge, key: str | None = None, path: str = "/v1/connect") -> requests.Response:
    """Ask for a WebSocket and return the refusal."""
    headers = {
        "Authorization": f"Bearer {key or edge.key}",
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
    }
    return requests.get(edge.url + path, headers=headers, timeout=60)


def test_an_upgrade_reaches_the_worker_as_it_was_and_its_answer_the_client(
    edge: LoadBalancerEdge, worker: EchoSockets
) -> None:
    async def talk(socket: Client) -> tuple[bytes, str | None, str]:
        return await echo(socket), socket.protocol, socket._response.headers[WORKER_HEADER]

    assert talked(edge, talk, **{"X-Mine": "too"}) == (b"hello", PROTOCOL, edge.workers[0].id)
    seen = worker.headers[0]
    assert (seen["Authorization"], seen["X-Mine"]) == (f"Bearer {edge.key}", "too")
    assert edge.wait_for(lambda: edge.requests[0].request_bytes > 0)
    recorded = edge.requests[0]
    assert (recorded.path, recorded.status, recorded.worker_id) == ("/v1/connect", 101, edge.workers[0].id)
    assert recorded.reply_bytes >= 7


@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536, 3_000_000])
def test_messages_of_any_size_come_back_equal(edge: LoadBalancerEdge, size: int) -> None:
    data = bytes(range(256)) * (size // 256) + bytes(size % 256)
    assert talked(edge, lambda socket: echo(socket, data)) == data


def test_a_ping_is_answered_by_the_worker_and_not_by_the_edge(edge: LoadBalancerEdge, worker: EchoSockets) -> None:
    async def talk(socket: Client) -> None:
        await socket.ping(b"there?")
        await echo(socket)

    talked(edge, talk)
    assert worker.heard == [WSMsgType.PING, WSMsgType.BINARY]


def test_nobody_gets_a_socket_without_the_key(edge: LoadBalancerEdge, worker: EchoSockets) -> None:
    assert upgrade(edge, "rpa_another").status_code == 401
    assert worker.headers == []


def test_a_queue_endpoint_refuses_an_upgrade(worker: EchoSockets) -> None:
    with LoadBalancerEdge(worker.url, kind="queue") as edge:
        reply = upgrade(edge)
    assert (reply.status_code, reply.json()) == (400, {"error": "not allowed for QB API"})


def test_what_the_worker_says_in_place_of_a_101_comes_through(edge: LoadBalancerEdge) -> None:
    reply = upgrade(edge, path="/v1/refuse")
    assert (reply.status_code, reply.content, reply.headers["X-Own"]) == (401, b"the worker's own words", "kept")


def test_without_a_worker_an_upgrade_hangs_and_gets_a_400(worker: EchoSockets) -> None:
    with LoadBalancerEdge(limits=BRIEF) as edge:
        assert upgrade(edge).json() == {"error": NO_WORKERS}
        edge.limits = replace(BRIEF, hold_s=20)

        async def late() -> bytes:
            asyncio.get_running_loop().call_later(0.3, edge.add_worker, worker.url)
            async with opened(edge) as socket:
                return await echo(socket)

        assert asyncio.run(late()) == b"hello"


def test_faults_answer_an_upgrade_too(edge: LoadBalancerEdge, worker: EchoSockets) -> None:
    edge.faults.add("/v1/connect", bad_gateway())
    assert upgrade(edge).status_code == 502
    assert worker.headers == []


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_message_over_the_limit_ends_the_connection_with_1009(edge: LoadBalancerEdge, way: str) -> None:
    edge.limits = replace(BRIEF, message_bytes=100_000)

    async def talk(socket: Client) -> int | None:
        for _ in range(3):
            assert await echo(socket, bytes(100_000)) == bytes(100_000)
        await (socket.send_bytes(bytes(100_001)) if way == "up" else socket.send_str("100001"))
        return await last_word(socket)

    assert talked(edge, talk) == 1009


def test_a_socket_ends_without_a_word_when_its_time_is_over(edge: LoadBalancerEdge, worker: EchoSockets) -> None:
    edge.limits = replace(BRIEF, connection_s=0.3)

    async def talk(socket: Client) -> int | None:
        assert await echo(socket) == b"hello"
        return await last_word(socket)

    assert talked(edge, talk) is None
    assert worker.wait_for(lambda: worker.is_open == 0)
    edge.limits = BRIEF
    assert talked(edge, echo) == b"hello"


def test_a_worker_with_an_open_socket_and_no_requests_is_stopped(edge: LoadBalancerEdge) -> None:
    edge.limits = replace(BRIEF, idle_s=0.2)
    before = edge.workers[0].id

    async def talk(socket: Client) -> int | None:
        while edge.stopped == []:  # what passes over it is no request either
            try:
                await echo(socket)
            except (TypeError, ConnectionError):
                break
        return await last_word(socket)

    assert talked(edge, talk) is None
    assert edge.stopped == [before]
    assert edge.workers == []
    edge.limits = replace(BRIEF, hold_s=20)
    assert talked(edge, echo, **{WORKER_HEADER: before}) == b"hello"
    (anew,) = edge.workers
    assert anew.id != before


def test_requests_keep_a_worker_with_a_socket_running(edge: LoadBalancerEdge) -> None:
    edge.limits = replace(BRIEF, idle_s=5.0)
    headers = {"Authorization": f"Bearer {edge.key}"}

    async def talk(socket: Client) -> bytes:
        for _ in range(3):
            before = edge.workers[0].asked_at
            reply = await asyncio.to_thread(requests.get, f"{edge.url}/ping", headers=headers, timeout=60)
            assert reply.status_code == 200
            assert edge.workers[0].asked_at > before
        return await echo(socket)

    assert talked(edge, talk) == b"hello"
    assert edge.stopped == []


@pytest.mark.parametrize("status", [502, 503])
def test_an_edge_that_starts_again_drops_all_and_refuses_for_a_while(
    edge: LoadBalancerEdge, worker: EchoSockets, status: int
) -> None:
    async def talk(socket: Client) -> int | None:
        assert await echo(socket) == b"hello"
        edge.start_again(3600, status)
        return await last_word(socket)

    assert talked(edge, talk) is None
    assert worker.wait_for(lambda: worker.is_open == 0)
    assert upgrade(edge).status_code == status
    edge.start_again(0)
    assert talked(edge, echo) == b"hello"


def test_a_worker_that_is_taken_away_ends_its_sockets_and_another_takes_the_next(
    edge: LoadBalancerEdge, worker: EchoSockets
) -> None:
    before = edge.workers[0].id
    with EchoSockets() as second:

        async def talk(socket: Client) -> int | None:
            assert await echo(socket) == b"hello"
            edge.add_worker(second.url, "second")
            assert edge.wait_until_ready(2)
            edge.remove_worker(before)
            return await last_word(socket)

        assert talked(edge, talk) is None
        assert talked(edge, echo, **{WORKER_HEADER: before}) == b"hello"
        assert (len(worker.headers), len(second.headers)) == (1, 1)


@pytest.mark.parametrize("way", ["request", "reply"])
def test_a_socket_can_be_cut_after_some_bytes(edge: LoadBalancerEdge, way: Any) -> None:
    edge.faults.add("/v1/connect", Fault(drop=way, after_bytes=100_000))

    async def talk(socket: Client) -> int | None:
        assert await echo(socket, bytes(60_000)) == bytes(60_000)
        await socket.send_bytes(bytes(60_000))
        return await last_word(socket)

    assert talked(edge, talk) is None
    passed = edge.requests[0].request_bytes if way == "request" else edge.requests[0].reply_bytes
    assert passed == 100_000
    assert talked(edge, echo) == b"hello"
