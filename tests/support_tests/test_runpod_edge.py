from __future__ import annotations

import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import requests
import torch
from pydantic import SecretStr
from tests.support.backend import FunctionBackend
from tests.support.edge_workers import WORKER_HEADER
from tests.support.faults import Fault, bad_gateway, edge_timeout, rate_limited
from tests.support.frames import forward_frame
from tests.support.runpod_edge import NO_WORKERS, TIMED_OUT, EdgeLimits, LoadBalancerEdge
from tests.support.runpod_gateway import ENDPOINT, KEY, RunPodGateway
from tests.support.worker import ThreadWorker

from comfy_gpu_offload.config.address import Address
from comfy_gpu_offload.protocol.envelope import open_frame
from comfy_gpu_offload.runpod.client import RunPodClient
from comfy_gpu_offload.server.http.reply import Reply
from comfy_gpu_offload.server.http.request import Request
from comfy_gpu_offload.server.http.server import HttpServer, listen
from comfy_gpu_offload.transport.configured import kind_of

BRIEF = EdgeLimits(hold_s=0.2, strict_hold_s=0.2)


class EchoWorker:
    """A worker's server with an answer of its own: what came, and a `/ping` as told."""

    def __init__(self) -> None:
        self.ping = 200
        self.headers: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        self.release = threading.Event()
        self.server = HttpServer(self._answer, listen("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.server.address[1]}"

    def _answer(self, request: Request) -> Reply:
        if request.path == "/ping":
            return Reply(self.ping)
        body, piece = bytearray(), memoryview(bytearray(65536))
        while count := request.body.read_into(piece):
            body += piece[:count]
        self.headers.append(dict(request.headers))
        self.bodies.append(bytes(body))
        if request.path == "/stream":
            return Reply(200, stream=self._pieces())
        if request.path == "/slow":
            self.release.wait(20)
        return Reply(200, (bytes(body),), headers={"X-Own": "kept"})

    def _pieces(self) -> Generator[Sequence[bytes]]:
        yield (b"one",)
        self.release.wait(20)
        yield (b"two", b"three")

    def close(self) -> None:
        self.release.set()
        self.server.close()


@pytest.fixture
def worker() -> Iterator[EchoWorker]:
    made = EchoWorker()
    yield made
    made.close()


@pytest.fixture
def edge(worker: EchoWorker) -> Iterator[LoadBalancerEdge]:
    with LoadBalancerEdge(worker.url, limits=BRIEF) as made:
        assert made.wait_until_ready()
        yield made


def ask(edge: LoadBalancerEdge, data: Any = b"hello", path: str = "/echo", **headers: str) -> requests.Response:
    sent = {"Authorization": f"Bearer {edge.key}", "Content-Type": "application/octet-stream", **headers}
    return requests.post(edge.url + path, data=data, headers=sent, timeout=60)


def health(edge: LoadBalancerEdge) -> dict[str, int]:
    headers = {"Authorization": f"Bearer {edge.key}"}
    reply = requests.get(f"{edge.base_url}/{ENDPOINT}/health", headers=headers, timeout=60)
    assert reply.status_code == 200
    return {state: count for state, count in reply.json()["workers"].items() if count}


def test_a_call_of_a_real_worker_comes_back_bit_for_bit() -> None:
    x = torch.randn(3, 5)
    # The worker's token is the endpoint's key here, so that it answers only if that was passed on.
    with ThreadWorker(FunctionBackend(), token=KEY) as real, LoadBalancerEdge(real.url) as edge:
        assert edge.wait_until_ready()
        reply = ask(edge, bytes(forward_frame(x, model="double").joined()), "/v1/forward")
        assert reply.status_code == 200
        assert torch.equal(open_frame(reply.content).unpack(), x * 2)
        assert reply.headers[WORKER_HEADER] == edge.workers[0].id


def test_a_request_reaches_the_worker_as_it_was(edge: LoadBalancerEdge, worker: EchoWorker) -> None:
    reply = ask(edge, b"bytes", "/echo?a=b", **{"X-Mine": "too"})
    assert (reply.content, reply.headers["X-Own"]) == (b"bytes", "kept")
    assert reply.headers[WORKER_HEADER] == edge.workers[0].id
    seen = worker.headers[0]
    assert (seen["authorization"], seen["x-mine"]) == (f"Bearer {edge.key}", "too")
    assert seen["content-length"] == "5"
    recorded = edge.requests[0]
    assert (recorded.method, recorded.path, recorded.status) == ("POST", "/echo", 200)
    assert (recorded.request_bytes, recorded.reply_bytes, recorded.worker_id) == (5, 5, edge.workers[0].id)


@pytest.mark.parametrize("given", ["", "Bearer rpa_another", KEY])
def test_nobody_gets_through_without_the_key(edge: LoadBalancerEdge, worker: EchoWorker, given: str) -> None:
    reply = ask(edge, Authorization=given)
    assert (reply.status_code, reply.json()["status"], reply.json()["title"]) == (401, 401, "Unauthorized")
    assert "detail" in reply.json()
    assert worker.bodies == []


def test_a_queue_endpoint_has_no_such_address(worker: EchoWorker) -> None:
    with LoadBalancerEdge(worker.url, kind="queue") as edge:
        reply = ask(edge)
    assert (reply.status_code, reply.json()) == (400, {"error": "not allowed for QB API"})


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_request_over_the_limit_is_refused(edge: LoadBalancerEdge, worker: EchoWorker, is_chunked: bool) -> None:
    edge.limits = replace(BRIEF, request_bytes=200_000)

    def body(size: int) -> Any:
        return iter([bytes(1000)] * (size // 1000)) if is_chunked else bytes(size)

    assert len(ask(edge, body(200_000)).content) == 200_000
    reply = ask(edge, body(201_000))
    assert reply.status_code == 400
    assert "exceeded max body size of 0.2MB" in reply.json()["error"]
    assert len(worker.bodies) == 1 or len(worker.bodies[1]) < 201_000


def test_the_status_of_that_refusal_can_be_set(edge: LoadBalancerEdge) -> None:
    edge.limits = replace(BRIEF, request_bytes=10, too_large_status=413)
    assert ask(edge, bytes(11)).status_code == 413


def test_a_reply_over_the_limit_is_refused(edge: LoadBalancerEdge, worker: EchoWorker) -> None:
    edge.limits = replace(BRIEF, reply_bytes=1000)
    assert len(ask(edge, bytes(1000)).content) == 1000
    reply = ask(edge, bytes(1001))
    assert (reply.status_code, "exceeded max body size" in reply.json()["error"]) == (400, True)
    assert len(worker.bodies) == 2


def test_a_reply_of_unknown_length_comes_through_piece_by_piece(edge: LoadBalancerEdge, worker: EchoWorker) -> None:
    headers = {"Authorization": f"Bearer {edge.key}"}
    with requests.post(f"{edge.url}/stream", headers=headers, stream=True, timeout=60) as reply:
        assert reply.raw.read(3) == b"one"  # while the worker still waits to send the rest
        worker.release.set()
        assert reply.raw.read() == b"twothree"


def test_a_reply_that_turns_out_too_long_is_cut(edge: LoadBalancerEdge, worker: EchoWorker) -> None:
    edge.limits = replace(BRIEF, reply_bytes=5)
    worker.release.set()
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        ask(edge, path="/stream")


@pytest.mark.parametrize("text", [NO_WORKERS, TIMED_OUT])
def test_without_a_worker_a_request_hangs_and_gets_a_400(text: str) -> None:
    with LoadBalancerEdge(limits=replace(BRIEF, no_worker=text)) as edge:
        reply = ask(edge)
        assert (reply.status_code, reply.json()) == (400, {"error": text})
        assert WORKER_HEADER not in reply.headers
        assert health(edge) == {}


def test_a_request_that_hangs_is_answered_when_a_worker_comes(worker: EchoWorker) -> None:
    with LoadBalancerEdge(limits=replace(BRIEF, hold_s=20)) as edge, ThreadPoolExecutor() as pool:
        hanging = pool.submit(ask, edge)
        assert edge.wait_for(lambda: edge.count("/echo") == 1)
        edge.add_worker(worker.url, "late")
        reply = hanging.result(20)
    assert (reply.status_code, reply.headers[WORKER_HEADER]) == (200, "late")


def test_a_worker_gets_nothing_until_it_says_that_it_is_ready(worker: EchoWorker) -> None:
    worker.ping = 204
    with LoadBalancerEdge(worker.url, limits=BRIEF) as edge:
        assert edge.wait_for(lambda: edge.workers[0].pinged[204] > 0)
        assert health(edge) == {"initializing": 1}
        assert ask(edge).json() == {"error": NO_WORKERS}
        worker.ping = 200
        assert edge.wait_until_ready()
        assert health(edge) == {"idle": 1, "ready": 1}
        assert ask(edge).status_code == 200
        worker.ping = 500
        assert edge.wait_for(lambda: edge.workers[0].state == "unhealthy")
        assert ask(edge).json() == {"error": NO_WORKERS}
        assert health(edge) == {"unhealthy": 1}


def test_health_says_who_is_busy(edge: LoadBalancerEdge, worker: EchoWorker) -> None:
    edge.other_workers = {"throttled": 3}
    with ThreadPoolExecutor() as pool:
        slow = pool.submit(ask, edge, b"", "/slow")
        assert edge.wait_for(lambda: edge.workers[0].running == 1)
        assert health(edge) == {"running": 1, "ready": 1, "throttled": 3}
        worker.release.set()
        assert slow.result(20).status_code == 200
    assert edge.health_polls == 1


def test_a_worker_that_is_gone_is_a_502_until_that_is_noticed(edge: LoadBalancerEdge, worker: EchoWorker) -> None:
    edge.limits = replace(BRIEF, ping_s=60)
    polls = edge.workers[0].pinged[200]
    assert edge.wait_for(lambda: edge.workers[0].pinged[200] > polls)  # the last one before a minute
    worker.close()
    assert ask(edge).status_code == 502
    assert edge.requests[-1].worker_id == edge.workers[0].id


def test_a_worker_that_is_taken_away_gets_nothing_more(edge: LoadBalancerEdge) -> None:
    edge.remove_worker(edge.workers[0].id)
    assert ask(edge).json() == {"error": NO_WORKERS}


@pytest.fixture
def pair(edge: LoadBalancerEdge) -> Iterator[tuple[LoadBalancerEdge, EchoWorker]]:
    second = EchoWorker()
    edge.add_worker(second.url, "second")
    assert edge.wait_until_ready(2)
    yield edge, second
    second.close()


def test_requests_are_spread_unless_they_prefer_a_worker(pair: tuple[LoadBalancerEdge, EchoWorker]) -> None:
    edge, _ = pair
    ids = {worker.id for worker in edge.workers}
    assert {ask(edge).headers[WORKER_HEADER] for _ in range(4)} == ids
    for wanted in ids:
        for affinity in (wanted, f"strict {wanted}", f"strict-resume {wanted}"):
            served = {ask(edge, **{WORKER_HEADER: affinity}).headers[WORKER_HEADER] for _ in range(3)}
            assert served == {wanted}
    assert edge.requests[-1].affinity == affinity


def test_when_the_preferred_worker_is_gone_another_serves_unless_it_was_strict(
    pair: tuple[LoadBalancerEdge, EchoWorker],
) -> None:
    edge, second = pair
    second.close()
    assert edge.wait_for(lambda: edge.workers[1].state == "unhealthy")
    assert ask(edge, **{WORKER_HEADER: "second"}).headers[WORKER_HEADER] == edge.workers[0].id
    reply = ask(edge, **{WORKER_HEADER: "strict second"})
    assert (reply.status_code, reply.json()) == (404, {"error": "affinity_worker_gone"})


def test_a_strict_request_waits_for_its_worker_and_then_gives_up(
    pair: tuple[LoadBalancerEdge, EchoWorker],
) -> None:
    edge, second = pair
    second.ping = 204
    assert edge.wait_for(lambda: edge.workers[1].state == "initializing")
    reply = ask(edge, **{WORKER_HEADER: "strict second"})
    assert (reply.status_code, reply.json()) == (400, {"error": "worker_timeout"})


def test_an_endpoint_that_sleeps_is_woken_by_a_request(edge: LoadBalancerEdge) -> None:
    edge.fall_asleep(wake_s=1.0)
    assert health(edge) == {}
    assert ask(edge).json() == {"error": NO_WORKERS}
    assert health(edge) == {"initializing": 1}
    assert edge.wait_until_ready()
    assert ask(edge).status_code == 200


@pytest.mark.parametrize(
    "fault", [bad_gateway(), edge_timeout(), rate_limited(2), Fault(400, {"error": TIMED_OUT})]
)
def test_a_fault_is_answered_so_often_and_reaches_no_worker(
    edge: LoadBalancerEdge, worker: EchoWorker, fault: Fault
) -> None:
    edge.faults.add("*", fault, times=2)
    codes = [ask(edge).status_code for _ in range(3)]
    assert codes == [fault.status, fault.status, 200]
    assert len(worker.bodies) == 1
    assert [request.status for request in edge.requests] == codes


def test_a_fault_can_be_of_one_path(edge: LoadBalancerEdge) -> None:
    edge.faults.add("/other", bad_gateway())
    edge.faults.add("health", rate_limited())
    assert ask(edge).status_code == 200
    assert ask(edge, path="/other").status_code == 502
    url = f"{edge.base_url}/{ENDPOINT}/health"
    assert requests.get(url, timeout=60).status_code == 429


@pytest.mark.parametrize("after_bytes", [None, 300_000])
def test_a_connection_can_break_in_the_middle_of_a_request(
    edge: LoadBalancerEdge, worker: EchoWorker, after_bytes: int | None
) -> None:
    edge.faults.add("/echo", Fault(drop="request", after_bytes=after_bytes))
    with pytest.raises(requests.ConnectionError):
        ask(edge, bytes(8_000_000))
    assert edge.requests[0].status is None
    assert all(len(body) <= 300_000 for body in worker.bodies)
    assert ask(edge).content == b"hello"


@pytest.mark.parametrize("after_bytes", [None, 0, 300_000])
def test_a_connection_can_break_in_the_middle_of_a_reply(
    edge: LoadBalancerEdge, worker: EchoWorker, after_bytes: int | None
) -> None:
    edge.faults.add("/echo", Fault(drop="reply", after_bytes=after_bytes))
    with pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
        ask(edge, bytes(8_000_000))
    assert [len(body) for body in worker.bodies] == [8_000_000]
    assert ask(edge).content == b"hello"


def test_a_worker_that_takes_too_long_is_given_up(edge: LoadBalancerEdge) -> None:
    edge.limits = replace(BRIEF, processing_s=0.2)
    assert ask(edge, path="/slow").status_code == 524


def test_a_client_that_goes_away_is_no_trouble(edge: LoadBalancerEdge, worker: EchoWorker) -> None:
    with pytest.raises(requests.ReadTimeout):
        requests.post(f"{edge.url}/slow", data=b"x", headers={"Authorization": f"Bearer {edge.key}"}, timeout=0.3)
    assert edge.wait_for(lambda: edge.workers[0].running == 0)
    assert edge.requests[0].status is None
    assert ask(edge).status_code == 200


def test_the_apis_side_tells_the_two_kinds_of_endpoints_apart(edge: LoadBalancerEdge) -> None:
    with RunPodClient(SecretStr(KEY), ENDPOINT, base_url=Address.parse(edge.base_url)) as api:
        assert kind_of(api) == "load-balancer"
        assert api.health().workers.ready == 1
    with (
        RunPodGateway() as gateway,
        RunPodClient(SecretStr(KEY), ENDPOINT, base_url=Address.parse(gateway.base_url)) as api,
    ):
        assert kind_of(api) == "queue"


def test_the_apis_side_asks_for_the_key_and_the_endpoint(edge: LoadBalancerEdge) -> None:
    url = f"{edge.base_url}/{ENDPOINT}/health"
    assert requests.get(url, timeout=60).status_code == 401
    headers = {"Authorization": f"Bearer {edge.key}"}
    assert requests.get(f"{edge.base_url}/another/health", headers=headers, timeout=60).status_code == 404
