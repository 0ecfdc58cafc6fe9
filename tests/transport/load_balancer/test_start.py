"""The start of a load-balancing endpoint's worker, and what ends the wait for it."""

from __future__ import annotations

import threading

import pytest
import torch
from tests.support.faults import Fault, bad_gateway, edge_timeout, rate_limited
from tests.support.runpod_edge import NO_WORKERS, TIMED_OUT, EdgeLimits, LoadBalancerEdge
from tests.support.worker import ThreadWorker
from tests.transport.load_balancer.conftest import requests_to, settings

from comfy_gpu_offload.client.connect import connect_from
from comfy_gpu_offload.errors import NoWorkerError, RunPodAuthError, RunPodWrongKindError

X = torch.randn(1, 4, 64, 64)


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


def test_a_wrong_key_is_named(edge: LoadBalancerEdge) -> None:
    with pytest.raises(RunPodAuthError, match="RUNPOD_API_KEY"):
        connect_from(settings(edge, runpod_api_key="rpa_wrong"))


def test_the_wrong_kind_of_endpoint_is_named(worker: ThreadWorker) -> None:
    with LoadBalancerEdge(worker.url, kind="queue") as edge, pytest.raises(RunPodWrongKindError, match="=queue"):
        connect_from(settings(edge, wake_timeout_s=2))


@pytest.mark.parametrize(
    "answer",
    [
        Fault(400, {"error": NO_WORKERS}),
        Fault(400, {"error": TIMED_OUT}),
        bad_gateway(),
        Fault(503, "unavailable"),
        edge_timeout(),
        rate_limited(),
    ],
    ids=["no workers", "timed out", "502", "503", "524", "429"],
)
def test_an_upgrade_without_a_worker_is_asked_for_again_and_no_reason_for_http(
    edge: LoadBalancerEdge, answer: Fault
) -> None:
    edge.faults.add("/v1/connect", answer)
    with connect_from(settings(edge)) as session:
        assert torch.equal(session.model("double")(X), X * 2)
    assert [request.status for request in requests_to(edge, "/v1/connect")] == [answer.status, 101]
    assert all(request.method == "GET" for request in edge.requests)


def test_a_start_is_no_time_of_a_call(worker: ThreadWorker) -> None:
    with LoadBalancerEdge(worker.url) as edge, connect_from(settings(edge)) as session:
        model = session.model("double")
        edge.fall_asleep(wake_s=1.5)
        assert torch.equal(model(X), X * 2)
        timings = model.last_timings
    assert timings is not None
    assert timings.waited_s > 1.0
    assert timings.exchange_s < timings.waited_s
