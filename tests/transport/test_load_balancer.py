"""A load-balancing endpoint: our client, what RunPod's edge does, and the real worker behind it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tests.support.backend import FunctionBackend
from tests.support.faults import Fault
from tests.support.runpod_edge import NO_WORKERS, TIMED_OUT, EdgeLimits, LoadBalancerEdge
from tests.support.runpod_gateway import ENDPOINT, KEY
from tests.support.worker import ThreadWorker

from comfy_gpu_offload import Session
from comfy_gpu_offload.client.connect import connect_from
from comfy_gpu_offload.config.settings import Settings, given_settings
from comfy_gpu_offload.errors import (
    HttpStatusError,
    NoWorkerError,
    RunPodAuthError,
    RunPodPayloadTooLargeError,
    RunPodWrongKindError,
)
from comfy_gpu_offload.transport.load_balancer import RunPodEdge

X = torch.randn(1, 4, 64, 64)


@pytest.fixture
def backend() -> FunctionBackend:
    return FunctionBackend()


@pytest.fixture
def worker(backend: FunctionBackend) -> Iterator[ThreadWorker]:
    with ThreadWorker(backend) as made:
        yield made
        backend.release.set()


@pytest.fixture
def edge(worker: ThreadWorker) -> Iterator[LoadBalancerEdge]:
    with LoadBalancerEdge(worker.url) as made:
        yield made


def settings(edge: LoadBalancerEdge, **changed: Any) -> Settings:
    values = {
        "url": edge.url,
        "endpoint": "load-balancer",
        "runpod_api_key": KEY,
        "runpod_endpoint_id": ENDPOINT,
        "runpod_base_url": edge.base_url,
        "retry_s": 10,
        "wake_timeout_s": 20,
        "compression": "none",
        **changed,
    }
    return given_settings(**values)


@pytest.fixture
def session(edge: LoadBalancerEdge) -> Iterator[Session]:
    with connect_from(settings(edge)) as made:
        yield made


def forwards(edge: LoadBalancerEdge) -> list[Any]:
    return [request for request in edge.requests if request.path == "/v1/forward"]


def test_calls_pass_with_runpods_key_and_ask_for_the_worker_that_answered(
    session: Session, edge: LoadBalancerEdge
) -> None:
    model = session.model("double")
    assert torch.equal(model(X), X * 2)
    assert torch.equal(model(X + 1), (X + 1) * 2)
    (only,) = edge.workers
    first, second = forwards(edge)
    assert first.authorization == second.authorization == f"Bearer {KEY}"
    assert first.affinity == second.affinity == only.id


def test_a_run_keeps_to_the_worker_that_holds_its_tensors(
    session: Session, edge: LoadBalancerEdge, backend: FunctionBackend
) -> None:
    with ThreadWorker(FunctionBackend()) as second:
        model = session.model("double")
        model(X)
        edge.add_worker(second.url)
        for step in range(6):
            model(X + step)
    assert len(backend.calls) == 7


def test_a_sleeping_endpoint_is_woken_and_the_wait_is_told(worker: ThreadWorker) -> None:
    told: list[str] = []
    with (
        LoadBalancerEdge(worker.url, wake_s=2.5, limits=EdgeLimits(hold_s=0.3)) as edge,
        connect_from(settings(edge), notify=told.append) as session,
    ):
        assert torch.equal(session.model("double")(X), X * 2)
        assert edge.health_polls > 0
    assert told
    assert all("waiting for the endpoint's worker" in line for line in told)


@pytest.mark.parametrize(
    "answer",
    [
        Fault(status=400, body={"error": NO_WORKERS}),
        Fault(status=400, body={"error": TIMED_OUT}),
        Fault(status=502, body="bad gateway"),
        Fault(status=503, body="unavailable"),
        Fault(status=524, body="a timeout occurred"),
    ],
    ids=["no workers", "timed out", "502", "503", "524"],
)
def test_a_worker_that_goes_in_the_middle_of_a_run_is_waited_for(
    session: Session, edge: LoadBalancerEdge, answer: Fault
) -> None:
    model = session.model("double")
    model(X)
    edge.faults.add("/v1/forward", answer, times=2)
    assert torch.equal(model(X + 1), (X + 1) * 2)


def test_an_endpoint_without_workers_is_given_up_in_time_with_what_to_look_at() -> None:
    with LoadBalancerEdge(limits=EdgeLimits(hold_s=0.2)) as edge:
        edge.other_workers = {"throttled": 2}
        with pytest.raises(NoWorkerError, match="2 throttled"):
            connect_from(settings(edge, wake_timeout_s=1.5))


def test_waiting_for_a_worker_can_be_interrupted() -> None:
    stop = threading.Event()

    def check() -> None:
        if stop.is_set():
            raise InterruptedError

    # The edge lets go of nothing before the test's end: only the check can end the wait.
    with LoadBalancerEdge(limits=EdgeLimits(hold_s=3600)) as edge:
        threading.Timer(0.5, stop.set).start()
        with pytest.raises(InterruptedError):
            connect_from(settings(edge), check=check)


def test_another_400_is_not_taken_for_a_start(session: Session, edge: LoadBalancerEdge) -> None:
    model = session.model("double")
    edge.faults.add("/v1/forward", Fault(status=400, body={"error": "malformed"}), times=2)
    with pytest.raises(HttpStatusError, match="malformed"):
        model(X)


def test_too_much_is_refused_before_it_is_sent(session: Session, edge: LoadBalancerEdge) -> None:
    model = session.model("double")
    before = len(edge.requests)
    with pytest.raises(RunPodPayloadTooLargeError, match="28 MB") as caught:
        model(torch.zeros(29_000_000, dtype=torch.uint8))
    assert len(edge.requests) == before
    assert caught.value.limit_bytes == 28_000_000
    assert "offload: whole loop" in str(caught.value)


def test_a_whole_loop_that_is_too_much_is_not_told_to_be_one(session: Session) -> None:
    latent = torch.zeros(29_000_000, dtype=torch.uint8)
    fields = {"sampler": "echo", "scheduler": "simple", "seed": 3, "steps": 1, "cfg": 1.0}
    with pytest.raises(RunPodPayloadTooLargeError, match="whole loop already") as caught:
        session.model("echo").sample(fields, {"latent": latent, "positive": [], "negative": []})
    assert "offload: whole loop" not in str(caught.value)


def test_a_reply_that_the_edge_cuts_off_is_asked_for_again(
    session: Session, edge: LoadBalancerEdge, backend: FunctionBackend
) -> None:
    model = session.model("double")
    model(X)
    edge.faults.add("/v1/forward", Fault(drop="reply", after_bytes=1000))
    assert torch.equal(model(X + 1), (X + 1) * 2)
    assert len(backend.calls) == 2  # the worker still had the reply


def test_a_request_that_breaks_in_its_middle_is_sent_again(session: Session, edge: LoadBalancerEdge) -> None:
    model = session.model("double")
    model(X)
    edge.faults.add("/v1/forward", Fault(drop="request", after_bytes=1000))
    assert torch.equal(model(X + 1), (X + 1) * 2)


def test_a_rate_limit_is_waited_out(session: Session, edge: LoadBalancerEdge) -> None:
    model = session.model("double")
    edge.faults.add("/v1/forward", Fault(status=429, body="too many"))
    assert torch.equal(model(X), X * 2)


def test_a_worker_that_is_gone_is_replaced_and_gets_what_it_lacks(
    edge: LoadBalancerEdge, worker: ThreadWorker, session: Session
) -> None:
    fresh = FunctionBackend()
    model = session.model("double")
    for _ in range(3):
        model(X, X)  # conditioning that recurs, named by digest from the second call on
    with ThreadWorker(fresh) as second:
        edge.add_worker(second.url)
        worker.stop()
        assert torch.equal(model(X, X), X * 2)
    assert len(fresh.calls) == 1


def test_a_whole_loop_streams_through_the_edge(session: Session, edge: LoadBalancerEdge) -> None:
    fields = {"sampler": "echo", "scheduler": "simple", "seed": 1, "steps": 4, "cfg": 1.0}
    steps: list[int] = []
    result, timings = session.model("echo").sample(
        fields, {"latent": X, "positive": [], "negative": []}, lambda step, *_: steps.append(step)
    )
    assert torch.equal(result, X + 1 + 1 + 1 + 1)
    assert steps == [1, 2, 3, 4]
    assert timings.exchanges == 1


def test_a_wrong_key_is_named(edge: LoadBalancerEdge) -> None:
    with pytest.raises(RunPodAuthError, match="RUNPOD_API_KEY"):
        connect_from(settings(edge, runpod_api_key="rpa_wrong"))


def test_the_wrong_kind_of_endpoint_is_named(worker: ThreadWorker) -> None:
    with LoadBalancerEdge(worker.url, kind="queue") as edge, pytest.raises(RunPodWrongKindError, match="=queue"):
        connect_from(settings(edge, wake_timeout_s=2))


def test_a_strict_affinity_that_is_gone_is_a_start() -> None:
    front = RunPodEdge()
    front.replied({"x-runpod-worker-id": "worker-1"})
    assert "worker-1" in front.request_headers()
    error = front.refusal("https://e.example", 404, '{"error": "affinity_worker_gone"}')
    assert isinstance(error, NoWorkerError)
    assert front.request_headers() == ""


@pytest.mark.parametrize("name", ["two words", "line\r\nInjected: yes", "ünïcode"])
def test_a_workers_name_that_is_no_header_text_is_not_sent_back(name: str) -> None:
    front = RunPodEdge()
    front.replied({"x-runpod-worker-id": name})
    assert front.request_headers() == ""


def test_no_key_or_tensor_is_in_a_log(
    worker: ThreadWorker, edge: LoadBalancerEdge, caplog: pytest.LogCaptureFixture
) -> None:
    marked = torch.full((1, 4, 8, 8), 0.123456789)
    with caplog.at_level(logging.DEBUG), connect_from(settings(edge)) as session:
        session.model("double")(marked)
        edge.faults.add("/v1/forward", Fault(status=400, body={"error": "malformed"}), times=2)
        with pytest.raises(HttpStatusError):
            session.model("double")(marked)
    assert caplog.text
    assert KEY not in caplog.text
    assert "0.1234" not in caplog.text
