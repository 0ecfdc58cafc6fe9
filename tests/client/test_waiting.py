"""Calls that wait behind another client's: told so, and never ended by a time-out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from time import sleep
from typing import Any

import pytest
import torch
from tests.support.backend import FINGERPRINT, FunctionBackend
from tests.support.worker import ThreadWorker

from comfy_gpu_offload import connect
from comfy_gpu_offload.client.connect import connect_from
from comfy_gpu_offload.client.options import SessionOptions
from comfy_gpu_offload.client.retry import RetryPolicy
from comfy_gpu_offload.client.session import Session
from comfy_gpu_offload.config.settings import given_settings
from comfy_gpu_offload.errors import MessageError, UnsupportedRunError
from comfy_gpu_offload.protocol.envelope import open_frame, seal
from comfy_gpu_offload.protocol.messages import Fault, FaultCode, ModelRef, SampleJob
from comfy_gpu_offload.server.executor import QueueLimits
from comfy_gpu_offload.transport.base import Timeouts
from comfy_gpu_offload.transport.http_transport import HttpTransport

FIELDS: dict[str, Any] = {"sampler": "double", "scheduler": "normal", "seed": 1, "steps": 2, "cfg": 1.0}
JOB: dict[str, Any] = {"latent": torch.ones(2), "positive": [], "negative": []}
# Far longer than what waits is allowed to take: it would be over by then.
LONG_S = 9.0


@pytest.fixture
def backend() -> Iterator[FunctionBackend]:
    made = FunctionBackend()
    yield made
    made.release.set()


class Crowd:
    """A worker on which somebody else's call runs until it is released, and a client with little time."""

    def __init__(self, backend: FunctionBackend, worker: ThreadWorker, threads: ThreadPoolExecutor) -> None:
        self.backend = backend
        self.told: list[str] = []
        self._threads = threads
        self._other = connect(worker.url)
        short = given_settings(url=worker.url, call_timeout_s=4, load_timeout_s=4, retry_s=1, compression="none")
        self.session = connect_from(short, notify=self.told.append)
        self.model = self.session.model("double")
        self.running = threads.submit(self._other.model("wait"), torch.ones(1))
        assert backend.started.wait(60)

    def waits(self, work: Callable[[], Any]) -> Future[Any]:
        """Begins the work, and lets the other's call finish a long time later."""
        result = self._threads.submit(work)
        sleep(LONG_S)
        assert not result.done() or result.exception() is None
        self.backend.release.set()
        return result

    def close(self) -> None:
        self.backend.release.set()
        self.session.close()
        self._other.close()


@pytest.fixture
def crowd(backend: FunctionBackend, request: pytest.FixtureRequest) -> Iterator[Crowd]:
    limits = getattr(request, "param", QueueLimits())
    with ThreadWorker(backend, queue=limits) as worker, ThreadPoolExecutor(4) as threads:
        made = Crowd(backend, worker, threads)
        yield made
        made.close()


NO_ROOM = pytest.mark.parametrize("crowd", [QueueLimits(waiting=0)], indirect=True, ids=["no room"])


@NO_ROOM
def test_a_call_that_finds_no_room_to_wait_asks_again_until_its_turn_comes(crowd: Crowd) -> None:
    result = crowd.waits(lambda: crowd.model(torch.ones(2)))
    assert torch.equal(result.result(60), torch.full((2,), 2.0))


@NO_ROOM
def test_a_model_that_finds_no_room_to_wait_is_loaded_when_its_turn_comes(crowd: Crowd) -> None:
    result = crowd.waits(lambda: crowd.session.model("echo"))
    assert result.result(60).description.ref.name == "echo"


@NO_ROOM
def test_a_whole_loop_that_finds_no_room_to_wait_runs_when_its_turn_comes(crowd: Crowd) -> None:
    result = crowd.waits(lambda: crowd.model.sample(FIELDS, JOB))
    assert torch.equal(result.result(60)[0], torch.full((2,), 7.0))


def test_a_measurement_of_the_link_waits_for_its_turn(crowd: Crowd) -> None:
    assert crowd.waits(lambda: crowd.session.probe(down_bytes=10)).result(60) >= 0


@pytest.mark.parametrize("kind", ["call", "load", "run"])
def test_what_waits_is_never_over_its_time_and_says_behind_whom(crowd: Crowd, kind: str) -> None:
    work: dict[str, Callable[[], Any]] = {
        "call": lambda: crowd.model(torch.ones(2)),
        "load": lambda: crowd.session.model("echo"),
        "run": lambda: crowd.model.sample(FIELDS, JOB),
    }
    crowd.waits(work[kind]).result(60)
    assert any(text.startswith("waiting at the worker behind 1 other: a call of wait, ") for text in crowd.told)


def test_over_http_exchanges_a_call_that_waits_keeps_asking(backend: FunctionBackend) -> None:
    options = SessionOptions(call=Timeouts(exchange_s=4.0), retry=RetryPolicy(total_s=1.0))
    limits = QueueLimits(untold_s=0.1)
    with ExitStack() as ending:
        threads = ending.enter_context(ThreadPoolExecutor(2))
        worker = ending.enter_context(ThreadWorker(backend, queue=limits))
        ending.callback(backend.release.set)
        other = ending.enter_context(connect(worker.url))
        with Session(HttpTransport(worker.address), options) as session:
            model = session.model("double")
            running = threads.submit(other.model("wait"), torch.ones(1))
            assert backend.started.wait(60)
            result = threads.submit(model, torch.ones(2))
            sleep(LONG_S)
            backend.release.set()
            assert torch.equal(result.result(60), torch.full((2,), 2.0))
            assert torch.equal(running.result(60), torch.ones(1))
    assert [name for name, _, _ in backend.calls] == ["wait", "double"]


def test_an_interrupt_ends_a_wait(crowd: Crowd) -> None:
    pressed = threading.Event()

    def check() -> None:
        if pressed.is_set():
            raise KeyboardInterrupt

    object.__setattr__(crowd.model, "_check", check)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(crowd.model, torch.ones(2))
        sleep(1)
        pressed.set()
        with pytest.raises(KeyboardInterrupt):
            waiting.result(60)
    assert len(crowd.backend.calls) == 1


@pytest.mark.parametrize(
    ("wrong", "names"),
    [
        ({"steps": 1_000_000}, "steps: Input should be less than or equal to 10000"),
        ({"steps": 0}, "steps"),
        ({"seed": -1}, "seed"),
        ({"cfg": float("nan")}, "cfg"),
        ({"denoise": 1.5}, "denoise"),
        ({"start_step": 1_000_000}, "start_step"),
        ({"sampler": "x" * 300}, "sampler"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_run_that_no_worker_takes_is_refused_before_any_work(
    backend: FunctionBackend, wrong: dict[str, Any], names: str
) -> None:
    with ThreadWorker(backend) as worker, connect(worker.url) as session:
        model = session.model("double")
        with pytest.raises(UnsupportedRunError, match=names):
            model.sample({**FIELDS, **wrong}, JOB)
        with pytest.raises(MessageError, match="name: String should have at most 256"):
            session.model("x" * 300)
        assert not backend.calls


def test_a_worker_refuses_a_million_steps_from_whoever_asks(backend: FunctionBackend) -> None:
    with ThreadWorker(backend) as worker:
        job = SampleJob.model_construct(
            type="sample",
            request="request-1",
            client="client-under-test",
            model=ModelRef(name="double"),
            fingerprint=FINGERPRINT,
            reply_codec="raw",
            denoise=1.0,
            **{**FIELDS, "steps": 1_000_000},
        )
        reply = open_frame(worker.handler.handle(seal(job).joined()).joined()).message
    assert isinstance(reply, Fault)
    assert reply.code is FaultCode.BAD_MESSAGE
    assert "steps: Input should be less than or equal to 10000" in reply.message
    assert not backend.calls


def test_a_worker_that_still_starts_is_not_waited_for_for_ever_by_a_first_hello(backend: FunctionBackend) -> None:
    with ThreadWorker(backend) as worker:
        handler, worker._state.handler = worker.handler, None
        with pytest.raises(Exception, match="still starting"):
            connect(worker.url, retry_s=0.5)
        worker._state.handler = handler
