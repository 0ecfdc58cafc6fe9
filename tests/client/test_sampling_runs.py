"""Whole sampling runs as one job, over real sockets."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import sleep
from typing import Any

import pytest
import torch
from tests.support.backend import FunctionBackend
from tests.support.breaking_proxy import BreakingProxy
from tests.support.worker import ThreadWorker

from comfy_gpu_offload import RemoteModel, Session, connect
from comfy_gpu_offload.client.connect import connect_from
from comfy_gpu_offload.config.settings import given_settings
from comfy_gpu_offload.errors import CallCancelledError, ConnectError, ModelFailedError, UnsupportedValueError
from comfy_gpu_offload.protocol.envelope import seal
from comfy_gpu_offload.protocol.messages import Cancel
from comfy_gpu_offload.server.handler import Handler
from comfy_gpu_offload.transport.loopback import LoopbackTransport

LATENT = torch.randn(1, 4, 8, 8)
CONTEXT = torch.randn(1, 77, 768)
Seen = list[tuple[int, int, bytes | None]]


def fields(**changed: Any) -> dict[str, Any]:
    return {"sampler": "echo", "scheduler": "simple", "seed": 3, "steps": 5, "cfg": 1.0, **changed}


def job(latent: torch.Tensor = LATENT) -> dict[str, Any]:
    return {"latent": latent, "positive": [[CONTEXT, {"strength": 1.0}]], "negative": []}


def expected(steps: int = 5, seed: int = 3) -> torch.Tensor:
    latent = LATENT
    for _ in range(steps):
        latent = latent + seed
    return latent


def paced(backend: FunctionBackend, pause_s: float = 0.05) -> Callable[[], None]:
    """Make each step take its time."""

    def slow(x: torch.Tensor) -> torch.Tensor:
        sleep(pause_s)
        return x

    backend.functions["echo"] = slow
    return lambda: None


@pytest.fixture
def model(session: Session) -> RemoteModel:
    return session.model("echo")


def test_one_request_gives_every_step_and_the_result(model: RemoteModel, backend: FunctionBackend) -> None:
    seen: Seen = []
    result, timings = model.sample(fields(), job(), lambda *step: seen.append(step))
    assert torch.equal(result, expected())
    assert [(step, of) for step, of, _ in seen] == [(n, 5) for n in range(1, 6)]
    assert timings.exchanges == 1
    assert timings.compute_s > 0
    ((sampler, (message,), tensors),) = backend.calls
    assert (sampler, message.seed, message.steps) == ("echo", 3, 5)
    assert torch.equal(tensors["positive"][0][0], CONTEXT)


def test_previews_come_now_and_then(model: RemoteModel, backend: FunctionBackend) -> None:
    paced(backend, 0.06)
    seen: Seen = []
    model.sample(fields(steps=12), job(), lambda *step: seen.append(step))
    pictures = [picture for _, _, picture in seen if picture is not None]
    assert pictures[0] == b"picture 1"
    assert 2 <= len(pictures) <= 6


def test_conditioning_that_came_before_is_named_and_not_sent(model: RemoteModel) -> None:
    _, first = model.sample(fields(), job())
    _, second = model.sample(fields(seed=4), job(torch.randn(1, 4, 8, 8)))
    assert first.bytes_up > CONTEXT.nbytes
    assert second.bytes_up < LATENT.nbytes + 2000


@pytest.mark.parametrize("at", [200, 900, 1700, 2500])
def test_a_connection_that_breaks_is_taken_up_where_it_broke(
    worker: ThreadWorker, backend: FunctionBackend, at: int
) -> None:
    paced(backend)
    with BreakingProxy(worker.port) as proxy, connect(proxy.url, retry_s=60) as session:
        model = session.model("echo")
        proxy.break_after_down = proxy.down + at
        seen: Seen = []
        result, timings = model.sample(fields(steps=10), job(), lambda *step: seen.append(step))
    assert torch.equal(result, expected(10))
    assert len(backend.calls) == 1
    assert [step for step, _, _ in seen] == sorted({step for step, _, _ in seen})
    assert timings.exchanges == 2


@pytest.mark.parametrize("what", ["break", "alter"])
def test_a_result_that_was_lost_or_altered_is_fetched_and_not_computed_again(
    worker: ThreadWorker, backend: FunctionBackend, what: str
) -> None:
    large = torch.randn(1, 4, 256, 256)
    with BreakingProxy(worker.port) as proxy, connect(proxy.url, retry_s=60, compression="none") as session:
        model = session.model("echo")
        setattr(proxy, f"{what}_after_down", proxy.down + 500_000)
        result, timings = model.sample(fields(steps=2), job(large))
    assert torch.equal(result, large + 3 + 3)
    assert (len(backend.calls), timings.exchanges) == (1, 2)


def test_a_worker_that_was_restarted_begins_anew_and_gives_the_same(
    worker: ThreadWorker, backend: FunctionBackend
) -> None:
    paced(backend)
    fresh = FunctionBackend()
    seen: list[int] = []
    with (
        ThreadWorker(fresh) as second,
        BreakingProxy(worker.port) as proxy,
        connect(proxy.url, retry_s=60) as session,
    ):
        model = session.model("echo")

        def on_progress(step: int, *_: Any) -> None:
            seen.append(step)
            if step == 3 and proxy.target == worker.port:
                proxy.target = second.port
                proxy.break_after_down = proxy.down

        result, _ = model.sample(fields(steps=6), job(), on_progress)
    assert torch.equal(result, expected(6))
    assert len(fresh.calls) == 1
    assert seen[-6:] == [1, 2, 3, 4, 5, 6]


def test_a_run_whose_worker_is_back_says_so_with_its_next_step(
    worker: ThreadWorker, backend: FunctionBackend
) -> None:
    paced(backend)
    told: list[str] = []
    with BreakingProxy(worker.port) as proxy:
        session = connect_from(given_settings(url=proxy.url, retry_s=60), notify=told.append)

        def on_progress(step: int, *_: Any) -> None:
            if step == 2 and proxy.break_after_down is None:
                proxy.break_after_down = proxy.down
            told.append(f"step {step}")

        session.model("echo").sample(fields(steps=6), job(), on_progress)
        session.close()
    lost, back = (next(at for at, line in enumerate(told) if word in line) for word in ("lost", "back"))
    assert told[lost - 1] == "step 2"
    assert back == lost + 1
    assert told[back + 1].startswith("step ")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_latent_has_the_dtype_that_the_worker_gave_it(worker: ThreadWorker, dtype: torch.dtype) -> None:
    with connect(worker.url) as session:
        result, _ = session.model("echo").sample(fields(), job(LATENT.to(dtype)), lambda *_: None)
    assert result.dtype is dtype


def test_a_check_that_raises_ends_the_run_here_and_at_the_worker(
    worker: ThreadWorker, backend: FunctionBackend
) -> None:
    paced(backend)
    stop = threading.Event()

    def check() -> None:
        if stop.is_set():
            raise InterruptedError("cancelled by the user")

    with connect(worker.url) as session:
        model = session.model("echo", check=check)

        steps = []

        def on_progress(step: int, of: int, picture: bytes | None) -> None:
            steps.append(step)
            if step == 2:
                stop.set()

        with pytest.raises(InterruptedError):
            model.sample(fields(steps=100), job(), on_progress)
        assert steps[-1] < 50
        assert backend.interrupted.wait(60)
        stop.clear()
        result, _ = model.sample(fields(), job())
    assert torch.equal(result, expected())
    assert backend.steps_done == 5


def test_a_run_that_another_client_cancels_is_a_fault(
    session: Session, worker: ThreadWorker, backend: FunctionBackend
) -> None:
    paced(backend)
    model = session.model("echo")

    def cancel(step: int, *_: Any) -> None:
        if step == 2:
            worker.handler.handle(seal(Cancel(request=backend.calls[0][1][0].request)).joined())

    with pytest.raises(CallCancelledError):
        model.sample(fields(steps=100), job(), cancel)


def test_what_the_model_raises_is_raised_here(model: RemoteModel, backend: FunctionBackend) -> None:
    def fail(_: torch.Tensor) -> torch.Tensor:
        raise ValueError("no such thing")

    backend.functions["fail"] = fail
    with pytest.raises(ModelFailedError, match="no such thing"):
        model.sample(fields(sampler="fail"), job())
    result, _ = model.sample(fields(), job())
    assert torch.equal(result, expected())


def test_a_job_with_code_in_it_is_refused_by_name(model: RemoteModel) -> None:
    with pytest.raises(UnsupportedValueError, match=r"job\['positive'\]"):
        model.sample(fields(), job() | {"positive": [[CONTEXT, {"control": object()}]]})


def test_a_worker_that_is_gone_is_an_error_and_not_a_hang(backend: FunctionBackend) -> None:
    with ThreadWorker(backend) as worker, connect(worker.url, retry_s=0.5) as session:
        model = session.model("echo")
        worker.stop()
        with pytest.raises(ConnectError):
            model.sample(fields(), job())


def test_within_the_process(backend: FunctionBackend) -> None:
    handler = Handler(backend)
    seen: Seen = []
    result, _ = Session(LoopbackTransport(handler)).model("echo").sample(fields(), job(), lambda *s: seen.append(s))
    assert torch.equal(result, expected())
    assert len(seen) == 5
    handler.close(5)


def test_a_forward_call_of_another_client_waits_for_the_run(
    model: RemoteModel, worker: ThreadWorker, backend: FunctionBackend
) -> None:
    paced(backend)
    steps_before: list[int] = []
    backend.functions["double"] = lambda x: (steps_before.append(backend.steps_done), x * 2)[1]
    with connect(worker.url) as other:
        double = other.model("double")
        calling = threading.Thread(target=lambda: double(torch.ones(1)), daemon=True)

        def on_progress(step: int, *_: Any) -> None:
            if step == 1:
                calling.start()

        model.sample(fields(steps=8), job(), on_progress)
        calling.join(60)
    assert steps_before == [8]
