"""WebSockets to a load-balancing endpoint, through all by which its edge ends them: no run shows any of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep

import pytest
import torch
from tests.support.backend import FunctionBackend
from tests.support.faults import Fault
from tests.support.runpod_edge import EdgeLimits, LoadBalancerEdge
from tests.support.runpod_gateway import KEY
from tests.support.tls import self_signed, server_context
from tests.support.worker import ThreadWorker
from tests.transport.load_balancer.conftest import requests_to, settings, until

from comfy_gpu_offload import Session
from comfy_gpu_offload.client.connect import connect_from
from comfy_gpu_offload.errors import OffloadError
from comfy_gpu_offload.transport import load_pings
from comfy_gpu_offload.transport.runpod_intermediaries import RunPodEdge

X = torch.randn(1, 4, 64, 64)
RUN = {"sampler": "slow", "scheduler": "simple", "seed": 1, "steps": 6, "cfg": 1.0}
INPUTS = {"latent": X, "positive": [], "negative": []}
SAMPLED = X + 1 + 1 + 1 + 1 + 1 + 1


def sockets(edge: LoadBalancerEdge) -> int:
    """Return how many WebSockets were opened so far."""
    return sum(request.status == 101 for request in list(edge.requests))


def all_by_websocket(edge: LoadBalancerEdge) -> bool:
    return all(request.method == "GET" for request in list(edge.requests))


@contextmanager
def under_way(session: Session, backend: FunctionBackend) -> Iterator[Future[torch.Tensor]]:
    """Give a call that the worker computes until it is released."""
    model = session.model("wait")
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(model, X)
        assert backend.started.wait(60)
        try:
            yield call
        finally:
            backend.release.set()


def test_a_session_takes_one_websocket_with_runpods_key_and_a_ping(
    session: Session, edge: LoadBalancerEdge
) -> None:
    model = session.model("double")
    for step in range(5):
        assert torch.equal(model(X + step), (X + step) * 2)
    assert [request.path for request in edge.requests] == ["/ping", "/v1/connect"]
    assert {request.authorization for request in edge.requests} == {f"Bearer {KEY}"}


def test_a_whole_loop_streams_through_the_edge(session: Session) -> None:
    steps: list[int] = []
    result, timings = session.model("echo").sample(
        {**RUN, "sampler": "echo"}, INPUTS, lambda step, *_: steps.append(step)
    )
    assert torch.equal(result, SAMPLED)
    assert steps == [1, 2, 3, 4, 5, 6]
    assert timings.exchanges == 1


def test_frames_over_the_edges_limit_pass_in_pieces(edge: LoadBalancerEdge) -> None:
    edge.limits = EdgeLimits(message_bytes=1_200_000)
    with connect_from(settings(edge)) as session:
        x = torch.arange(5_000_000, dtype=torch.int64)  # 40 MB
        assert torch.equal(session.model("double")(x), x * 2)
    assert all_by_websocket(edge)


@pytest.mark.parametrize("end", ["time", "restart", "no load"])
def test_a_connection_that_ends_in_the_middle_of_a_call_costs_no_second_computing(
    session: Session, edge: LoadBalancerEdge, backend: FunctionBackend, end: str
) -> None:
    with under_way(session, backend) as call:
        before = sockets(edge)
        if end == "restart":
            edge.start_again(0.3, 503)
        elif end == "no load":
            edge.limits = replace(edge.limits, idle_s=0.0)
            until(edge, lambda: len(edge.stopped) > 0)
            edge.limits = replace(edge.limits, idle_s=None)
        else:
            edge.cut_sockets()
        until(edge, lambda: sockets(edge) > before)
        backend.release.set()
        assert torch.equal(call.result(60), X)
    assert len(backend.calls) == 1
    assert all_by_websocket(edge)


def test_a_run_goes_on_after_every_end_of_its_connection(edge: LoadBalancerEdge, backend: FunctionBackend) -> None:
    edge.limits = EdgeLimits(connection_s=0.2)
    backend.functions["slow"] = _slow
    with connect_from(settings(edge)) as session:
        steps: list[int] = []
        result, _ = session.model("echo").sample(RUN, INPUTS, lambda step, *_: steps.append(step))
    assert torch.equal(result, SAMPLED)
    assert steps == [1, 2, 3, 4, 5, 6]
    assert sockets(edge) > 2
    assert len(backend.calls) == 1


def _slow(x: torch.Tensor) -> torch.Tensor:
    sleep(0.15)
    return x


def test_another_worker_gets_what_it_lacks(session: Session, edge: LoadBalancerEdge, worker: ThreadWorker) -> None:
    fresh = FunctionBackend()
    model = session.model("double")
    for _ in range(3):
        model(X, X)  # conditioning that recurs, named by digest from the second call on
    (first,) = edge.workers
    with ThreadWorker(fresh) as second:
        edge.add_worker(second.url)
        assert edge.wait_until_ready(2)
        edge.remove_worker(first.id)
        assert torch.equal(model(X, X), X * 2)
        assert torch.equal(model(X, X), X * 2)
    assert len(fresh.calls) == 2
    assert requests_to(edge, "/v1/connect")[-1].affinity == first.id


def test_a_worker_that_is_gone_is_replaced(session: Session, edge: LoadBalancerEdge, worker: ThreadWorker) -> None:
    model = session.model("double")
    model(X, X)
    with ThreadWorker(FunctionBackend()) as second:
        edge.add_worker(second.url)
        worker.stop()
        assert torch.equal(model(X, X), X * 2)


def test_after_a_loss_the_worker_that_holds_the_tensors_is_preferred(
    session: Session, edge: LoadBalancerEdge, backend: FunctionBackend
) -> None:
    with ThreadWorker(FunctionBackend()) as second:
        model = session.model("double")
        model(X)
        edge.add_worker(second.url)
        assert edge.wait_until_ready(2)
        for step in range(4):
            edge.cut_sockets()
            model(X + step)
    assert len(backend.calls) == 5


def test_a_connection_is_replaced_between_calls_before_its_time_is_over(
    edge: LoadBalancerEdge,
    backend: FunctionBackend,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(RunPodEdge, "connection_s", 0.05)
    with connect_from(settings(edge)) as session, under_way(session, backend) as call:
        before = sockets(edge)
        sleep(0.1)
        session.models()  # on another connection, and the one in use goes on
        assert sockets(edge) == before + 1
        backend.release.set()
        assert torch.equal(call.result(60), X)
    assert "lost" not in caplog.text


def test_a_call_keeps_its_worker_running_by_pings_of_that_worker(
    edge: LoadBalancerEdge, backend: FunctionBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load_pings, "EVERY_S", 0.05)
    edge.limits = EdgeLimits(idle_s=2.0)
    with (
        ThreadWorker(FunctionBackend()) as second,
        connect_from(settings(edge)) as session,
        under_way(session, backend) as call,
    ):
        (first,) = edge.workers
        edge.add_worker(second.url)
        began = monotonic()
        until(edge, lambda: first.asked_at > began + 2.5 or first.id in edge.stopped)
        backend.release.set()
        assert torch.equal(call.result(60), X)
        assert first.id not in edge.stopped
        assert sockets(edge) == 1
        assert {ping.affinity for ping in requests_to(edge, "/ping") if ping.at > began} == {first.id}
        _end_within(lambda: len(requests_to(edge, "/ping")))


def _end_within(count: Callable[[], int]) -> None:
    """Wait until `count` stays as it is."""
    deadline, before = monotonic() + 30, -1
    while before != count():
        assert monotonic() < deadline
        before = count()
        sleep(0.3)


def test_all_of_it_holds_over_tls(worker: ThreadWorker, tmp_path: Path) -> None:
    certificate = self_signed(tmp_path)
    with LoadBalancerEdge(worker.url, tls=server_context(certificate)) as edge:
        assert edge.wait_until_ready()
        with connect_from(settings(edge, ca_file=certificate[0])) as session:
            x = torch.arange(1_000_000)
            model = session.model("double")
            assert torch.equal(model(x), x * 2)
            edge.cut_sockets()
            assert torch.equal(model(x + 1), (x + 1) * 2)
            edge.start_again(0)
            assert torch.equal(model(x + 2), (x + 2) * 2)
        assert sockets(edge) == 3
        assert all_by_websocket(edge)


@pytest.mark.parametrize("way", ["request", "reply"])
@pytest.mark.parametrize("after_bytes", [0, 300, 40_000])
def test_a_connection_cut_anywhere_is_opened_anew(edge: LoadBalancerEdge, way: str, after_bytes: int) -> None:
    edge.faults.add("/v1/connect", Fault(drop=way, after_bytes=after_bytes))  # type: ignore[arg-type]
    with connect_from(settings(edge, retry_s=30), await_worker=True) as session:
        for step in range(2):
            assert torch.equal(session.model("double")(X + step), (X + step) * 2)


def test_a_refused_upgrade_is_no_loss_of_the_worker(
    edge: LoadBalancerEdge, caplog: pytest.LogCaptureFixture
) -> None:
    edge.passes_websockets = False
    with connect_from(settings(edge)) as session:
        assert torch.equal(session.model("double")(X), X * 2)
    assert requests_to(edge, "/v1/forward")[0].status == 200
    assert "single HTTP requests" in caplog.text


def test_what_only_a_websocket_carries_waits_for_one(
    edge: LoadBalancerEdge, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upgrade that failed for a moment is no reason to refuse a frame that is too large for HTTP exchanges."""
    monkeypatch.setattr(RunPodEdge, "request_bytes", 50_000)
    model = session.model("double")
    model(X[:, :1, :8])
    edge.faults.add(
        "/v1/connect",
        Fault(
            500,
            "no",
        ),
        times=3,
    )
    edge.cut_sockets()
    model(X[:, :1, :8])  # by an HTTP exchange
    assert len(requests_to(edge, "/v1/forward")) == 1
    assert torch.equal(model(X), X * 2)
    assert len(requests_to(edge, "/v1/forward")) == 1


def test_no_key_or_tensor_is_in_a_log(edge: LoadBalancerEdge, caplog: pytest.LogCaptureFixture) -> None:
    marked = torch.full((1, 4, 8, 8), 0.123456789)
    with caplog.at_level(logging.DEBUG), connect_from(settings(edge, retry_s=0.5)) as session:
        model = session.model("double")
        model(marked)
        edge.faults.add("*", Fault(status=500, body="oops"), times=1000)
        edge.cut_sockets()
        with pytest.raises(OffloadError):
            model(marked)
    assert caplog.text
    assert KEY not in caplog.text
    assert "0.1234" not in caplog.text
