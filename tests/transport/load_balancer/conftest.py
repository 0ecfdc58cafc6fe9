"""The fixtures of a load-balancing endpoint: a real worker, what RunPod's edge does, and our client."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.support.backend import FunctionBackend
from tests.support.edge_workers import EdgeRequest
from tests.support.runpod_edge import LoadBalancerEdge
from tests.support.worker import ThreadWorker

from comfy_gpu_offload import Session
from comfy_gpu_offload.client.connect import connect_from
from comfy_gpu_offload.config.settings import Settings, given_settings


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


@pytest.fixture
def session(edge: LoadBalancerEdge) -> Iterator[Session]:
    with connect_from(settings(edge)) as made:
        yield made


def settings(edge: LoadBalancerEdge, **changed: Any) -> Settings:
    brief = {"retry_s": 10, "wake_timeout_s": 20, "compression": "none", "endpoint": "load-balancer"}
    return given_settings(**{**edge.client_settings(), **brief, **changed})


def requests_to(edge: LoadBalancerEdge, path: str) -> list[EdgeRequest]:
    """Return the requests that came to `path`, in order."""
    return [request for request in list(edge.requests) if request.path == path]


def until(edge: LoadBalancerEdge, condition: Callable[[], bool]) -> None:
    """Wait for something that the edge sees."""
    assert edge.wait_for(condition, 60)
