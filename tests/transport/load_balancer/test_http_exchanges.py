"""HTTP exchanges with a load-balancing endpoint, where an upgrade does not come through."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import torch
from tests.support.backend import FunctionBackend
from tests.support.faults import Fault
from tests.support.runpod_edge import NO_WORKERS, TIMED_OUT, LoadBalancerEdge
from tests.support.runpod_gateway import KEY
from tests.support.worker import ThreadWorker
from tests.transport.load_balancer.conftest import requests_to, settings

from comfy_gpu_offload import Session
from comfy_gpu_offload.client.connect import connect_from
from comfy_gpu_offload.errors import HttpStatusError, RunPodPayloadTooLargeError

X = torch.randn(1, 4, 64, 64)


@pytest.fixture
def edge(worker: ThreadWorker) -> Iterator[LoadBalancerEdge]:
    with LoadBalancerEdge(worker.url) as made:
        made.passes_websockets = False
        yield made


def test_calls_pass_with_runpods_key_and_ask_for_the_worker_that_answered(
    session: Session, edge: LoadBalancerEdge
) -> None:
    model = session.model("double")
    assert torch.equal(model(X), X * 2)
    assert torch.equal(model(X + 1), (X + 1) * 2)
    (only,) = edge.workers
    first, second = requests_to(edge, "/v1/forward")
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
    edge.faults.add("/v1/forward", answer)
    assert torch.equal(model(X + 1), (X + 1) * 2)


def test_another_400_is_not_taken_for_a_start(session: Session, edge: LoadBalancerEdge) -> None:
    model = session.model("double")
    edge.faults.add("/v1/forward", Fault(status=400, body={"error": "malformed"}), times=2)
    with pytest.raises(HttpStatusError, match="malformed"):
        model(X)


def test_too_much_is_refused_before_it_is_sent(session: Session, edge: LoadBalancerEdge) -> None:
    model = session.model("double")
    before = len(edge.requests)  # a WebSocket, which takes it, is asked for again
    with pytest.raises(RunPodPayloadTooLargeError, match="28 MB") as caught:
        model(torch.zeros(29_000_000, dtype=torch.uint8))
    assert {request.method for request in edge.requests[before:]} <= {"GET"}
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


def test_a_whole_loop_streams_through_the_edge(session: Session) -> None:
    fields = {"sampler": "echo", "scheduler": "simple", "seed": 1, "steps": 4, "cfg": 1.0}
    steps: list[int] = []
    result, _ = session.model("echo").sample(
        fields, {"latent": X, "positive": [], "negative": []}, lambda step, *_: steps.append(step)
    )
    assert torch.equal(result, X + 1 + 1 + 1 + 1)
    assert steps == [1, 2, 3, 4]


def test_no_key_or_tensor_is_in_a_log(edge: LoadBalancerEdge, caplog: pytest.LogCaptureFixture) -> None:
    marked = torch.full((1, 4, 8, 8), 0.123456789)
    with caplog.at_level(logging.DEBUG), connect_from(settings(edge)) as session:
        session.model("double")(marked)
        edge.faults.add("/v1/forward", Fault(status=400, body={"error": "malformed"}), times=2)
        with pytest.raises(HttpStatusError):
            session.model("double")(marked)
    assert caplog.text
    assert KEY not in caplog.text
    assert "0.1234" not in caplog.text
