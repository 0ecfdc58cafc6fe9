from __future__ import annotations

import socket

import pytest
from tests.support.backend import FunctionBackend
from tests.support.worker import ThreadWorker

from comfy_gpu_offload.transport.health import Health, ping


def test_it_asks_the_way_that_calls_go_past_the_environments_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with ThreadWorker(FunctionBackend()) as worker:
        assert ping(worker.address) is Health.READY
