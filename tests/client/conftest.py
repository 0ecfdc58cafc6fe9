"""A worker on a real socket whose models are functions, and a session with it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.support.backend import FunctionBackend
from tests.support.worker import ThreadWorker

from comfy_gpu_offload import Session, connect


@pytest.fixture
def backend() -> FunctionBackend:
    return FunctionBackend()


@pytest.fixture
def worker(backend: FunctionBackend) -> Iterator[ThreadWorker]:
    with ThreadWorker(backend) as made:
        yield made
        backend.release.set()


@pytest.fixture
def session(worker: ThreadWorker) -> Iterator[Session]:
    with connect(worker.url, retry_s=60) as made:
        yield made
