"""The whole path through a queue endpoint: our client, RunPod's routes, RunPod's own worker loop, our handler."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tests.support.faults import Fault
from tests.support.runpod_gateway import ENDPOINT, KEY, RunPodGateway
from tests.support.runpod_queue import QueueLimits
from tests.support.runpod_worker import SdkWorker

from comfy_gpu_offload import RemoteModel, Session
from comfy_gpu_offload.client.connect import connect_from
from comfy_gpu_offload.config.settings import Settings, given_settings
from comfy_gpu_offload.digits import model as digits
from comfy_gpu_offload.digits import sampling
from comfy_gpu_offload.digits.conditioning import conditioning, unconditional
from comfy_gpu_offload.errors import (
    ExchangeTimeoutError,
    ModelFailedError,
    RunPodAuthError,
    RunPodJobTimedOutError,
    RunPodOutputLostError,
    RunPodPayloadTooLargeError,
    RunPodWrongKindError,
    TooLargeError,
    UnknownModelError,
)

LABELS = [3, 1, 4]
STEPS = 3


@pytest.fixture(scope="module")
def gateway() -> Iterator[RunPodGateway]:
    with RunPodGateway() as made:
        yield made


@pytest.fixture(scope="module")
def worker(gateway: RunPodGateway) -> Iterator[SdkWorker]:
    # One thread, as in this process: a sum over more of them has other last bits.
    with SdkWorker(gateway, env={"COMFY_GPU_OFFLOAD_BACKEND": "diffusers", "OMP_NUM_THREADS": "1"}) as made:
        yield made


@pytest.fixture(autouse=True)
def _plain(gateway: RunPodGateway) -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    gateway.faults.clear()
    gateway.limits = QueueLimits()


def settings(gateway: RunPodGateway, **changed: Any) -> Settings:
    values = {
        "runpod_api_key": KEY,
        "runpod_endpoint_id": ENDPOINT,
        "runpod_base_url": gateway.base_url,
        "retry_s": 10,
        **changed,
    }
    return given_settings(**values)


@pytest.fixture
def session(gateway: RunPodGateway, worker: SdkWorker) -> Iterator[Session]:
    with connect_from(settings(gateway)) as made:
        yield made


@pytest.fixture
def model(session: Session) -> RemoteModel:
    return session.model("digits")


def local(dtype: torch.dtype) -> torch.Tensor:
    return sampling.sample(digits.load(dtype), LABELS, steps=STEPS, dtype=dtype)


def call(model: RemoteModel) -> Any:
    context, pooled = conditioning([7])
    return model(
        hidden_states=torch.zeros(1, 16, 8, 8, dtype=model.dtype),
        timestep=torch.full((1,), 500.0),
        encoder_hidden_states=context.to(model.dtype),
        pooled_projections=pooled.to(model.dtype),
        return_dict=False,
    )


def test_a_sampling_run_is_bit_identical_to_local_one_job_a_call(
    model: RemoteModel, gateway: RunPodGateway, caplog: pytest.LogCaptureFixture
) -> None:
    before = len(gateway.submitted)
    with caplog.at_level(logging.WARNING):
        remote = sampling.sample(model, LABELS, steps=STEPS, dtype=model.dtype)
    assert torch.equal(remote, local(model.dtype))
    assert len(gateway.submitted) - before == STEPS
    warnings = [record for record in caplog.records if "0.1 s a call" in record.getMessage()]
    assert len(warnings) == 1


def test_a_whole_loop_is_one_job_and_bit_identical(model: RemoteModel, gateway: RunPodGateway) -> None:
    names = ("context", "pooled")
    job = {
        "latent": torch.zeros(len(LABELS), 16, 8, 8),
        "positive": dict(zip(names, conditioning(LABELS), strict=True)),
        "negative": dict(zip(names, unconditional(len(LABELS)), strict=True)),
    }
    fields = {"sampler": "euler", "scheduler": "simple", "seed": 0, "steps": STEPS, "cfg": 2.0}
    before = len(gateway.submitted)
    result, timings = model.sample(fields, job)
    assert torch.equal(result, local(model.dtype))
    assert len(gateway.submitted) - before == 1
    assert timings.exchanges == 1


def test_a_whole_loop_tells_its_steps_while_it_runs(model: RemoteModel, gateway: RunPodGateway) -> None:
    context, pooled = conditioning([1] * 64)
    side = {"context": context, "pooled": pooled}
    job = {"latent": torch.zeros(64, 16, 8, 8), "positive": side, "negative": side}
    fields = {
        "sampler": "euler",
        "scheduler": "simple",
        "seed": 0,
        "steps": 60,
        "cfg": 2.0,
        "preview": "auto",
    }
    steps: list[int] = []
    pictures: list[bytes] = []

    def on_progress(step: int, of: int, picture: bytes | None) -> None:
        assert of == 60
        steps.append(step)
        if picture is not None:
            pictures.append(picture)

    result, timings = model.sample(fields, job, on_progress)
    assert result.shape == (64, 16, 8, 8)
    assert len(steps) >= 3
    assert steps == sorted(set(steps))
    assert all(picture.startswith(b"\xff\xd8") for picture in pictures)
    assert pictures
    assert gateway.count("job-stream") >= len(steps)
    assert timings.exchanges == 1


def test_a_worker_that_holds_nothing_is_sent_what_it_lacks(model: RemoteModel, session: Session) -> None:
    first = call(model)[0]
    # As after a restart: this side believes that the worker holds tensors that it does not.
    session._parts.digests.delivered(session.welcome.instance, [])
    assert torch.equal(call(model)[0], first)


def test_faults_keep_their_kind_through_a_failed_job(session: Session, model: RemoteModel) -> None:
    with pytest.raises(UnknownModelError, match=f"RunPod endpoint {ENDPOINT}.*digits"):
        session.model("no-such-model")
    with pytest.raises(ModelFailedError):
        model(torch.zeros(3))


def test_a_call_that_is_interrupted_cancels_its_job_and_the_worker_is_free(
    session: Session, gateway: RunPodGateway, worker: SdkWorker
) -> None:
    stop = threading.Event()

    def check() -> None:
        if stop.is_set():
            raise InterruptedError

    model = session.model("digits", check=check)
    before = gateway.count("cancel")
    context, pooled = conditioning([1] * 512)
    long_job = {
        "latent": torch.zeros(512, 16, 8, 8),
        "positive": {"context": context, "pooled": pooled},
        "negative": {"context": context, "pooled": pooled},
    }
    threading.Timer(1.0, stop.set).start()
    with pytest.raises(InterruptedError):
        model.sample({"sampler": "euler", "scheduler": "simple", "seed": 0, "steps": 900, "cfg": 2.0}, long_job)
    assert gateway.wait_for(lambda: gateway.count("cancel") > before, 60)
    cancelled = gateway.submitted[-1]
    assert gateway.wait_for_status(cancelled.id, "CANCELLED", 10)
    stop.clear()
    next_call = threading.Thread(target=call, args=(model,), daemon=True)
    next_call.start()
    next_call.join(120)
    assert not next_call.is_alive(), "the worker goes on with 900 steps of 512 pictures, which takes minutes"


def test_too_much_is_refused_before_it_is_sent(model: RemoteModel, gateway: RunPodGateway) -> None:
    before = gateway.count("run") + gateway.count("runsync")
    noise = torch.randint(0, 256, (15_000_000,), dtype=torch.uint8)
    with pytest.raises(RunPodPayloadTooLargeError, match=r"MB.*offload: whole loop"):
        model(noise)
    fields = {"sampler": "ddim", "scheduler": "simple", "seed": 3, "steps": 1, "cfg": 1.0}
    with pytest.raises(RunPodPayloadTooLargeError, match="whole loop already"):
        model.sample(fields, {"latent": noise, "positive": [], "negative": []})
    # An earlier call's last look at its job may come at any time.
    assert gateway.count("run") + gateway.count("runsync") == before


def test_a_reply_too_large_for_a_job_is_the_workers_own_refusal(session: Session) -> None:
    with pytest.raises(TooLargeError, match="load-balancing endpoint"):
        session.probe(down_bytes=10_000_000)


def test_an_output_that_runpod_lost_is_an_error(model: RemoteModel, gateway: RunPodGateway) -> None:
    gateway.lose_outputs()
    with pytest.raises(RunPodOutputLostError):
        call(model)
    assert call(model)[0].shape == (1, 16, 8, 8)


@pytest.mark.parametrize("route", ["runsync", "status"])
def test_a_rate_limit_is_waited_out(model: RemoteModel, gateway: RunPodGateway, route: str) -> None:
    gateway.faults.add(route, Fault(status=429, headers={"Retry-After": "1"}))
    assert call(model)[0].shape == (1, 16, 8, 8)


def test_a_reply_that_was_lost_is_asked_for_again(model: RemoteModel, gateway: RunPodGateway) -> None:
    gateway.faults.add("runsync", Fault(drop="reply"))
    before = len(gateway.submitted)
    assert call(model)[0].shape == (1, 16, 8, 8)
    assert len(gateway.submitted) - before == 2  # a forward call is pure: billed twice at worst


def test_a_job_that_nobody_takes_ends_in_time_and_is_cancelled() -> None:
    with RunPodGateway() as empty, pytest.raises(ExchangeTimeoutError, match="sold out"):
        connect_from(settings(empty, endpoint="queue", call_timeout_s=1, wake_timeout_s=1))
    assert empty.submitted[0].status == "CANCELLED"


def test_a_job_whose_time_is_over_says_so(session: Session, gateway: RunPodGateway, worker: SdkWorker) -> None:
    gateway.faults.add("status", Fault(status=200, body={"id": "j1", "status": "TIMED_OUT"}))
    with pytest.raises(RunPodJobTimedOutError):
        session.models()


def test_a_wrong_key_is_named() -> None:
    with RunPodGateway() as other, pytest.raises(RunPodAuthError, match="RUNPOD_API_KEY"):
        connect_from(settings(other, runpod_api_key="rpa_wrong"))


def test_the_wrong_kind_of_endpoint_is_named() -> None:
    with RunPodGateway(kind="load-balancer") as other, pytest.raises(RunPodWrongKindError):
        connect_from(settings(other, endpoint="queue", retry_s=1))


def test_nothing_secret_is_in_any_log(
    gateway: RunPodGateway, worker: SdkWorker, caplog: pytest.LogCaptureFixture
) -> None:
    marked = torch.full((1, 4, 48), 0.123456789)
    with caplog.at_level(logging.DEBUG), connect_from(settings(gateway)) as session:
        remote = session.model("digits")
        with pytest.raises(ModelFailedError):
            remote(marked)
        call(remote)
    said = caplog.text + worker.text
    assert said
    assert KEY not in said
    assert "0.1234" not in said
    for job in gateway.submitted[-3:]:
        assert str(job.input)[10:40] not in said
