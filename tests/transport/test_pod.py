"""A pod behind RunPod's proxy: no authentication of its own, 100 s a request by HTTP, 502 while nothing listens."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch
from tests.support.backend import FunctionBackend
from tests.support.faults import Fault
from tests.support.runpod_edge import LoadBalancerEdge
from tests.support.worker import ThreadWorker

from comfy_gpu_offload.client.connect import connect
from comfy_gpu_offload.config.endpoint import Direct
from comfy_gpu_offload.errors import ExchangeTimeoutError, HttpStatusError
from comfy_gpu_offload.transport.runpod_intermediaries import PodProxy

TOKEN = "a-token-of-the-pods-own"
X = torch.randn(1, 4, 8, 8)


@pytest.fixture
def backend() -> FunctionBackend:
    return FunctionBackend()


@pytest.fixture
def proxy(backend: FunctionBackend, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoadBalancerEdge]:
    """Run a proxy that passes everything on; only its faults are wanted here."""
    monkeypatch.setattr(Direct, "is_pod", True)
    with ThreadWorker(backend, token=TOKEN) as worker, LoadBalancerEdge(worker.url, key=TOKEN) as made:
        yield made
        backend.release.set()


@pytest.mark.parametrize("passes_websockets", [True, False])
@pytest.mark.parametrize("status", [502, 503, 524])
def test_a_proxy_that_speaks_for_a_worker_that_starts_is_asked_again(
    proxy: LoadBalancerEdge, status: int, passes_websockets: bool
) -> None:
    proxy.passes_websockets = passes_websockets
    proxy.faults.add("*", Fault(status=status, body="<html>not yet</html>"), times=4)
    with connect(proxy.url, TOKEN, retry_s=20) as session:
        model = session.model("double")
        proxy.faults.add("*", Fault(status=status, body="<html>gone</html>"), times=2)
        proxy.cut_sockets()
        assert torch.equal(model(X), X * 2)
    assert any(request.status == 101 for request in proxy.requests) is passes_websockets


def test_a_model_that_loads_for_longer_than_a_request_may_last_is_asked_for_again(proxy: LoadBalancerEdge) -> None:
    proxy.passes_websockets = False
    with connect(proxy.url, TOKEN, retry_s=20) as session:
        proxy.faults.add("/v1/hello", Fault(status=524, body="a timeout occurred"), times=2)
        assert torch.equal(session.model("double")(X), X * 2)


def test_a_proxy_that_stays_down_is_given_up_with_its_words(proxy: LoadBalancerEdge) -> None:
    proxy.faults.add("*", Fault(status=502, body="Bad gateway"), times=50)
    with pytest.raises(HttpStatusError, match="Bad gateway"):
        connect(proxy.url, TOKEN, retry_s=1)


def test_a_request_by_http_ends_before_the_proxy_ends_it(
    proxy: LoadBalancerEdge, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert PodProxy.exchange_s < 100
    monkeypatch.setattr(PodProxy, "exchange_s", 0.3)
    proxy.passes_websockets = False
    with connect(proxy.url, TOKEN, call_timeout_s=30) as session:
        model = session.model("wait")
        with pytest.raises(ExchangeTimeoutError, match=r"0\.3 s.*without a WebSocket"):
            model(X)


def test_a_call_over_a_websocket_may_last_longer_than_a_request(
    proxy: LoadBalancerEdge, backend: FunctionBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PodProxy, "exchange_s", 0.2)
    with connect(proxy.url, TOKEN) as session:
        model = session.model("wait")
        threading.Timer(0.7, backend.release.set).start()
        assert torch.equal(model(X), X)
    assert len(backend.calls) == 1
