"""A model that is asked for with the first hello: same answers and errors, a round trip earlier."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from time import monotonic

import pytest
import torch
from tests.support.backend import FunctionBackend
from tests.support.runpod_edge import LoadBalancerEdge
from tests.support.runpod_gateway import ENDPOINT, KEY
from tests.support.worker import ThreadWorker

from comfy_gpu_offload import connect
from comfy_gpu_offload.backends.base import Described, ModelRunError
from comfy_gpu_offload.client import connect as connecting
from comfy_gpu_offload.client.session import Session
from comfy_gpu_offload.config.settings import given_settings
from comfy_gpu_offload.errors import ModelFailedError, UnauthorizedError, UnknownModelError
from comfy_gpu_offload.protocol.messages import ModelRef

X = torch.ones(3)


class Describing(FunctionBackend):
    """Counts what it is asked to load. `held` keeps it loading; `failing` makes it fail."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.held, self.failing = threading.Event(), False
        self.held.set()

    def describe(self, ref: ModelRef) -> Described:
        if not self.calls:  # a call describes its model too
            self.asked.append(ref.name)
        assert self.held.wait(30)
        if self.failing:
            raise ModelRunError("the file is broken")
        return super().describe(ref)


@pytest.fixture
def backend() -> Describing:
    return Describing()


@pytest.fixture
def worker(backend: Describing) -> Iterator[ThreadWorker]:
    with ThreadWorker(backend) as running:
        yield running


def test_the_model_is_loaded_once(worker: ThreadWorker, backend: Describing) -> None:
    with connect(worker.url, model="echo") as session:
        model = session.model("echo")
        assert backend.asked == ["echo"]
        assert torch.equal(model(X), X)


def test_the_session_is_open_while_the_worker_loads(worker: ThreadWorker, backend: Describing) -> None:
    backend.held.clear()
    with connect(worker.url, model="echo") as session:
        assert {entry.name for entry in session.models()} >= {"echo"}
        backend.held.set()
        assert torch.equal(session.model("echo")(X), X)


def test_another_model_is_asked_for_as_ever(worker: ThreadWorker, backend: Describing) -> None:
    with connect(worker.url, model="echo") as session:
        assert torch.equal(session.model("double")(X), 2 * X)
        session.model("echo")
    assert sorted(set(backend.asked)) == ["double", "echo"]


def test_a_second_request_asks_anew(worker: ThreadWorker, backend: Describing) -> None:
    with connect(worker.url, model="echo") as session:
        first = session.model("echo")
        backend.fingerprint = "0" * 16  # the file has changed
        second = session.model("echo")
    assert first.description.fingerprint != second.description.fingerprint


def test_a_model_that_there_is_not_is_refused_when_it_is_asked_for(worker: ThreadWorker) -> None:
    with connect(worker.url, model="nothing") as session:
        with pytest.raises(UnknownModelError):
            session.model("nothing")
        session.model("echo")


def test_a_model_that_fails_to_load_fails_once(worker: ThreadWorker, backend: Describing) -> None:
    backend.failing = True
    with connect(worker.url, model="echo") as session:
        with pytest.raises(ModelFailedError, match="broken"):
            session.model("echo")
        assert backend.asked == ["echo"]
        backend.failing = False
        session.model("echo")


def test_a_wrong_token_is_said_by_the_session() -> None:
    with ThreadWorker(FunctionBackend(), token="right") as guarded, pytest.raises(UnauthorizedError):
        connect(guarded.url, "wrong", model="echo")


class StopWaitingError(Exception):
    """A test's own interrupt."""


def test_an_interrupt_ends_the_wait(worker: ThreadWorker, backend: Describing) -> None:
    def check() -> None:
        if backend.asked:
            raise StopWaitingError

    backend.held.clear()
    with connect(worker.url, model="echo") as session:
        until = monotonic() + 30
        with pytest.raises(StopWaitingError):
            session.model("echo", check=check)
        assert monotonic() < until
        backend.held.set()
        assert torch.equal(session.model("echo")(X), X)


def test_references_that_an_older_worker_does_not_know_wait_for_the_welcome(
    worker: ThreadWorker, backend: Describing
) -> None:
    ref = ModelRef(name="echo", options=(("type", "sd3"),))
    with connecting.connect_from(given_settings(url=worker.url), loading=ref) as session:
        assert session._handshake._begun is None
        session.module(ref)
    assert backend.asked == ["echo"]


def test_nothing_is_asked_early_of_a_serverless_endpoint(
    worker: ThreadWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[ModelRef | None] = []

    class Noting(Session):
        def __init__(self, *args: object, loading: ModelRef | None = None) -> None:
            given.append(loading)
            super().__init__(*args, loading=loading)  # type: ignore[arg-type]

    monkeypatch.setattr(connecting, "Session", Noting)
    ref = ModelRef(name="echo")
    with LoadBalancerEdge(worker.url) as edge:
        settings = given_settings(
            url=edge.url,
            runpod_base_url=f"{edge.url}/v2",
            endpoint="load-balancer",
            runpod_api_key=KEY,
            runpod_endpoint_id=ENDPOINT,
        )
        with connecting.connect_from(settings, loading=ref) as session:
            session.model("echo")
    with connecting.connect_from(given_settings(url=worker.url), loading=ref):
        pass
    assert given == [None, ref]
