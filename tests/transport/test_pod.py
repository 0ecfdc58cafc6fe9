"""A pod behind RunPod's proxy: no authentication of its own, 100 s a request, 502 while nothing listens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tests.support.backend import FunctionBackend
from tests.support.faults import Fault
from tests.support.runpod_edge import LoadBalancerEdge
from tests.support.worker import ThreadWorker

from comfy_gpu_offload.client import connect as connecting
from comfy_gpu_offload.client.connect import connect, connect_from
from comfy_gpu_offload.client.session import Session, SessionOptions
from comfy_gpu_offload.config.settings import given_settings
from comfy_gpu_offload.errors import HttpStatusError

TOKEN = "a-token-of-the-pods-own"
X = torch.randn(1, 4, 8, 8)


@pytest.fixture
def proxy() -> Iterator[LoadBalancerEdge]:
    """Run a proxy that passes everything on; only its faults are wanted here."""
    with ThreadWorker(FunctionBackend(), token=TOKEN) as worker, LoadBalancerEdge(worker.url, key=TOKEN) as made:
        yield made


@pytest.mark.parametrize("status", [502, 503, 524])
def test_a_proxy_that_speaks_for_a_worker_that_starts_is_asked_again(proxy: LoadBalancerEdge, status: int) -> None:
    proxy.faults.add("/v1/hello", Fault(status=status, body="<html>not yet</html>"), times=2)
    with connect(proxy.url, TOKEN, retry_s=20) as session:
        model = session.model("double")
        proxy.faults.add("/v1/forward", Fault(status=status, body="<html>gone</html>"))
        assert torch.equal(model(X), X * 2)


def test_a_model_that_loads_for_longer_than_a_request_may_last_is_asked_for_again(proxy: LoadBalancerEdge) -> None:
    with connect(proxy.url, TOKEN, retry_s=20) as session:
        proxy.faults.add("/v1/hello", Fault(status=524, body="a timeout occurred"), times=2)
        assert torch.equal(session.model("double")(X), X * 2)


def test_a_proxy_that_stays_down_is_given_up_with_its_words(proxy: LoadBalancerEdge) -> None:
    for path in ("/v1/connect", "/v1/hello"):
        proxy.faults.add(path, Fault(status=502, body="Bad gateway"), times=50)
    with pytest.raises(HttpStatusError, match="Bad gateway"):
        connect(proxy.url, TOKEN, retry_s=1)


@pytest.mark.parametrize(
    ("url", "exchange_s", "limit_s"),
    [
        ("https://abc123-8288.proxy.runpod.net", 95.0, 95.0),
        ("https://gpu.example", 330.0, None),
    ],
)
def test_a_pods_requests_end_before_the_proxy_ends_them(
    monkeypatch: pytest.MonkeyPatch, url: str, exchange_s: float, limit_s: float | None
) -> None:
    made: list[SessionOptions] = []

    def keep(_: Any, options: SessionOptions, *__: Any) -> Session:
        made.append(options)
        return object.__new__(Session)

    monkeypatch.setattr(connecting, "Session", keep)
    connect_from(given_settings(url=url, token=TOKEN))
    assert (made[0].call.exchange_s, made[0].exchange_limit_s) == (exchange_s, limit_s)
