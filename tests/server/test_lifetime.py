"""A worker that leaves by itself: when it does, what keeps it, and its exit."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support.backend import FINGERPRINT, FunctionBackend
from tests.support.frames import forward_frame
from tests.support.process import WorkerProcess
from tests.support.worker import ThreadWorker

import comfy_gpu_offload
from comfy_gpu_offload.io import codecs, tree
from comfy_gpu_offload.io.frame import FrameLimits
from comfy_gpu_offload.protocol.envelope import open_frame, seal
from comfy_gpu_offload.protocol.messages import (
    Cancel,
    Fault,
    FaultCode,
    Hello,
    ModelRef,
    Probe,
    Result,
    SampleJob,
    Welcome,
)
from comfy_gpu_offload.server.handler import Handler, HandlerOptions
from comfy_gpu_offload.server.http.routes import WorkerState
from comfy_gpu_offload.server.lifetime import Activity, Lifetime, LifetimeLimits, told, watch
from comfy_gpu_offload.server.serve import ServeOptions, serve


class FakeClock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def activity(clock: FakeClock) -> Activity:
    return Activity(clock)


class Idle:
    """A handler that has been idle for 100 s when a test begins."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock, self.backend = clock, FunctionBackend()
        self.handler = Handler(self.backend, HandlerOptions(activity=Activity(clock)))
        clock.now += 100.0

    @property
    def idle_s(self) -> float:
        return self.handler.activity.idle_s

    def ask(self, frame: Any) -> Any:
        return open_frame(self.handler.handle(frame.joined()).joined()).message


@pytest.fixture
def idle(clock: FakeClock) -> Idle:
    return Idle(clock)


def hello(model: str | None = None) -> Hello:
    named = None if model is None else ModelRef(name=model)
    return Hello(client="client-under-test", package="test", torch="", codecs=(codecs.RAW.name,), model=named)


def job(request: str) -> SampleJob:
    return SampleJob(
        request=request, client="client-under-test", model=ModelRef(name="echo"), fingerprint=FINGERPRINT,
        reply_codec="raw", sampler="step", scheduler="normal", seed=1, steps=2, cfg=1.0,
    )  # fmt: skip


def test_it_leaves_after_the_idle_time_and_not_before(clock: FakeClock, activity: Activity) -> None:
    life = Lifetime(LifetimeLimits(idle_s=1200), activity, clock)
    clock.now += 1199
    assert life.reason_to_leave() is None
    activity.use()
    clock.now += 1199
    assert life.reason_to_leave() is None
    clock.now += 1
    assert life.reason_to_leave() == "nobody has used it for 20 minutes"


def test_it_leaves_at_its_hard_limit_though_it_is_used(clock: FakeClock, activity: Activity) -> None:
    life = Lifetime(LifetimeLimits(idle_s=1200, at_most_s=14_400), activity, clock)
    with activity.in_use():
        clock.now += 14_399
        assert life.reason_to_leave() is None
        clock.now += 1
        assert life.reason_to_leave() == "its hard limit of 4 hours is over"


def test_it_never_leaves_without_limits(clock: FakeClock, activity: Activity) -> None:
    life = Lifetime(LifetimeLimits(), activity, clock)
    clock.now += 1e9
    assert life.reason_to_leave() is None
    assert told(LifetimeLimits()) == ""


def test_what_is_under_way_keeps_it_however_long(clock: FakeClock, activity: Activity) -> None:
    life = Lifetime(LifetimeLimits(idle_s=60), activity, clock)
    with activity.in_use(), activity.in_use():
        clock.now += 1e6
        assert life.reason_to_leave() is None
    clock.now += 59
    assert life.reason_to_leave() is None
    clock.now += 1
    assert life.reason_to_leave() is not None


def test_the_log_says_it_once_before_it_leaves(
    clock: FakeClock, activity: Activity, caplog: pytest.LogCaptureFixture
) -> None:
    life = Lifetime(LifetimeLimits(idle_s=1200, at_most_s=14_400), activity, clock)

    def warned() -> list[str]:
        found = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        caplog.clear()
        return found

    for _ in range(1139):
        clock.now += 1
        life.reason_to_leave()
    assert warned() == []
    for _ in range(30):
        clock.now += 1
        life.reason_to_leave()
    assert warned() == ["this worker leaves in 60 s unless it is used"]
    activity.use()
    life.reason_to_leave()
    clock.now += 1150
    life.reason_to_leave()
    assert warned() == ["this worker leaves in 50 s unless it is used"]
    clock.now += 14_400 - 30 - (clock.now - 1000)
    activity.use()
    life.reason_to_leave()
    assert warned() == ["this worker leaves in 30 s, at its hard limit"]


def test_a_watch_sets_the_event_and_ends(clock: FakeClock, activity: Activity) -> None:
    async def watched() -> bool:
        stopping = asyncio.Event()
        watching = asyncio.ensure_future(
            watch(Lifetime(LifetimeLimits(idle_s=60), activity, clock), stopping, 0.001)
        )
        await asyncio.sleep(0.01)
        assert not stopping.is_set()
        clock.now += 60
        await asyncio.wait_for(watching, 30)
        return stopping.is_set()

    assert asyncio.run(watched())


@pytest.mark.parametrize(
    "frame",
    [
        lambda: seal(hello()),
        lambda: seal(Probe(client="client-under-test", reply_bytes=10), tree.pack(torch.zeros(8), "noise")),
        lambda: seal(Probe(client="client-under-test", reply_bytes=0), tree.pack(torch.zeros(8), "noise")),
        lambda: seal(Cancel(request="no-such-call")),
    ],
    ids=["hello", "probe", "probe without a reply", "cancel"],
)
def test_what_a_client_asks_of_itself_is_no_use(frame: Callable[[], Any], idle: Idle) -> None:
    idle.ask(frame())
    assert idle.idle_s == 100.0


def test_a_call_is_use_until_it_ends(idle: Idle) -> None:
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(idle.ask, forward_frame(torch.ones(2), model="wait"))
        assert idle.backend.started.wait(30)
        idle.clock.now += 5000
        assert idle.idle_s == 0.0
        idle.backend.release.set()
        assert isinstance(call.result(30), Result)
    assert idle.idle_s == 0.0
    idle.clock.now += 7
    assert idle.idle_s == 7.0


def test_the_loading_of_a_model_is_use(idle: Idle) -> None:
    assert isinstance(idle.ask(seal(hello("echo"))), Welcome)
    assert idle.idle_s == 0.0


def test_a_job_of_a_queue_is_use(idle: Idle) -> None:
    idle.handler.submit(forward_frame(torch.ones(2), model="echo").joined()).result(30)
    assert idle.idle_s == 0.0


def test_a_run_that_nobody_follows_is_use_until_it_ends(idle: Idle) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def step(latent: torch.Tensor) -> torch.Tensor:
        begun.set()
        assert go_on.wait(30)
        return latent

    idle.backend.functions["step"] = step
    frames = idle.handler.stream(
        seal(job("a-run-of-two-steps"), tree.pack({"latent": torch.zeros(2)}, "run")).joined()
    )
    next(frames)
    assert begun.wait(30)
    frames.close()  # its client is gone
    idle.clock.now += 5000
    assert idle.idle_s == 0.0
    go_on.set()
    run = idle.handler._parts.runs._runs.get("a-run-of-two-steps")
    assert run is not None
    run.wait()
    while idle.handler.running() is not None:
        pass
    idle.clock.now += 5
    assert idle.idle_s <= 5.0


def test_a_request_that_is_still_arriving_is_use(clock: FakeClock) -> None:
    """Over a WebSocket and by HTTP; an open connection on which nothing is asked is not."""
    backend = FunctionBackend()
    with (
        ThreadWorker(backend, activity=Activity(clock)) as worker,
        comfy_gpu_offload.connect(worker.url) as session,
    ):
        model = session.model("echo")
        model(torch.ones(2))
        used = worker.handler.activity
        clock.now += 50
        with ThreadPoolExecutor(1) as threads:
            waits = threads.submit(session.model("wait"), torch.ones(2))
            assert backend.started.wait(30)
            clock.now += 5000
            assert used.idle_s == 0.0
            backend.release.set()
            waits.result(30)
        clock.now += 100
        assert used.idle_s >= 100.0  # though the WebSocket is open


def _stopped_by_itself(
    limits: LifetimeLimits,
    activity: Activity,
    during: Callable[[Handler], None],
    backend: FunctionBackend | None = None,
) -> bool:
    """Serve with these limits; call `during` on a thread once the worker is ready. Returns what `serve` does."""

    async def served() -> bool:
        state, ready = WorkerState(FrameLimits()), threading.Event()
        handling = HandlerOptions(activity=activity)
        options = ServeOptions("127.0.0.1", 0, handling, lambda _: ready.set(), life=limits)
        serving = asyncio.ensure_future(
            serve(state, lambda: backend or FunctionBackend(), options, asyncio.Event())
        )
        await asyncio.to_thread(ready.wait, 30)
        assert state.handler is not None
        await asyncio.to_thread(during, state.handler)
        return await asyncio.wait_for(serving, 60)

    return asyncio.run(served())


def test_a_worker_that_is_idle_ends_in_order(clock: FakeClock, activity: Activity) -> None:
    def pass_time(_: Handler) -> None:
        clock.now += 100

    assert _stopped_by_itself(LifetimeLimits(idle_s=100), activity, pass_time) is True


def test_at_the_hard_limit_the_running_call_finishes_and_no_other_begins() -> None:
    backend, results = FunctionBackend(), []

    def ask(handler: Handler) -> None:
        call = handler.submit(forward_frame(torch.ones(1), model="wait").joined())
        assert backend.started.wait(30)
        # It waits in the queue until the limit has it refused.
        late = forward_frame(torch.ones(1), request="late-request", client="another-client")
        results.append(open_frame(handler.handle(late.joined()).joined()).message)
        backend.release.set()
        results.append(open_frame(call.result(30).joined()).message)

    assert _stopped_by_itself(LifetimeLimits(at_most_s=1.0), Activity(), ask, backend) is True
    late, call = results
    assert isinstance(late, Fault)
    assert late.code is FaultCode.STOPPING
    assert isinstance(call, Result)


def test_a_real_process_leaves_with_status_0(tmp_path: Path) -> None:
    worker = WorkerProcess(
        *("--backend", "diffusers", "--cpu", "--port", "0"),
        cwd=tmp_path,
        COMFY_GPU_OFFLOAD_IDLE_EXIT_MINUTES="0.05",
    )
    assert worker.process.wait(60) == 0
    worker._read_to_the_end()
    log = "".join(worker.log)
    assert "this worker leaves after 0.05 minutes without use" in log
    assert "unless it is used" in log
    assert "this worker leaves: nobody has used it for 0.05 minutes" in log
