from __future__ import annotations

import logging
import socket
import threading
from functools import partial
from typing import Any

import pytest
import torch
from tests.support.backend import FunctionBackend
from tests.support.worker import ThreadWorker

from comfy_gpu_offload import Session, connect
from comfy_gpu_offload.client.connect import connect_from
from comfy_gpu_offload.config.settings import given_settings
from comfy_gpu_offload.errors import ConnectError, UnauthorizedError, UnknownModelError, VersionSkewError


def test_it_lists_models_anew(session: Session, backend: FunctionBackend) -> None:
    backend.functions["later"] = lambda x: x
    assert "later" in {entry.name for entry in session.models()}


def test_a_wrong_token_is_said_at_once() -> None:
    with ThreadWorker(FunctionBackend(), token="right") as worker:
        with pytest.raises(UnauthorizedError, match="COMFY_GPU_OFFLOAD_TOKEN"):
            connect(worker.url, "wrong")
        with connect(worker.url, "right") as session:
            assert session.model("echo")(torch.ones(1)).item() == 1


def test_another_protocol_is_refused_by_name(worker: ThreadWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    from comfy_gpu_offload.client import handshake as module

    monkeypatch.setattr(module, "Hello", partial(module.Hello, protocol=99))
    with pytest.raises(VersionSkewError, match="99"):
        connect(worker.url)


def test_other_releases_on_the_two_sides_are_warned_of(
    worker: ThreadWorker, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("comfy_gpu_offload.client.version_check.__version__", "9.9.9")
    with caplog.at_level(logging.WARNING), connect(worker.url):
        assert "9.9.9" in caplog.text


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


class StartedLater:
    """A worker that is started once somebody is told that it is waited for."""

    def __init__(self, port: int) -> None:
        self._worker = ThreadWorker(FunctionBackend(), port=port)
        self.told: list[str] = []

    def tell(self, text: str) -> None:
        if not self.told:
            self._worker.__enter__()
        self.told.append(text)

    def stop(self) -> None:
        self._worker.stop()


def awaiting(port: int, tell: Any = None, check: Any = None, **changed: Any) -> Session:
    settings = given_settings(url=f"http://127.0.0.1:{port}", **{"retry_s": 60, **changed})
    return connect_from(settings, notify=tell, check=check, await_worker=True)


def test_a_worker_that_is_not_there_yet_is_waited_for_and_that_is_told() -> None:
    port = free_port()
    later = StartedLater(port)
    with awaiting(port, later.tell) as session:
        assert torch.equal(session.model("double")(torch.ones(2)), torch.ones(2) * 2)
    later.stop()
    for part in ("waiting for the worker", f"127.0.0.1:{port}", "COMFY_GPU_OFFLOAD_RETRY_S"):
        assert part in later.told[0]


def test_a_worker_that_goes_away_before_it_loads_a_model_is_waited_for() -> None:
    with ThreadWorker(FunctionBackend()) as first:
        port = first.port
        later = StartedLater(port)
        session = awaiting(port, later.tell)
    model = session.model("double")
    assert torch.equal(model(torch.ones(2)), torch.ones(2) * 2)
    assert later.told
    later.stop()


def test_who_does_not_wait_is_told_at_once() -> None:
    told: list[str] = []
    settings = given_settings(url=f"http://127.0.0.1:{free_port()}", retry_s=3600)
    with pytest.raises(ConnectError, match="Is it running"):
        connect_from(settings, notify=told.append)
    assert not told


def test_the_wait_ends_with_an_interrupt() -> None:
    told = threading.Event()

    def check() -> None:
        if told.is_set():
            raise InterruptedError

    with pytest.raises(InterruptedError):
        awaiting(free_port(), lambda _: told.set(), check, retry_s=3600)


def test_wrong_settings_are_not_waited_for() -> None:
    told: list[str] = []
    with ThreadWorker(FunctionBackend(), token="right-token-of-a-worker") as worker:
        with pytest.raises(UnauthorizedError):
            awaiting(worker.port, told.append, token="wrong", retry_s=3600)
        with (
            awaiting(worker.port, told.append, token="right-token-of-a-worker", retry_s=3600) as session,
            pytest.raises(UnknownModelError),
        ):
            session.model("nobody")
    settings = given_settings(url="https://no-such-host.invalid", retry_s=3600)
    with pytest.raises(ConnectError):
        connect_from(settings, notify=told.append, await_worker=True)
    assert not told
