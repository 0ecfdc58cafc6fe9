from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tests.support.backend import FINGERPRINT, FunctionBackend
from tests.support.frames import CLIENT, forward_frame, malformed_frames
from worker.queue_jobs import QueueJobs

from comfy_gpu_offload.client.connect import SERVERLESS_REPLY_BYTES
from comfy_gpu_offload.client.session import Session, SessionOptions
from comfy_gpu_offload.io.frame import EncodedFrame
from comfy_gpu_offload.io.tree import pack
from comfy_gpu_offload.protocol.envelope import Envelope, open_frame, seal
from comfy_gpu_offload.protocol.messages import (
    Cancel,
    Cancelled,
    Fault,
    FaultCode,
    Hello,
    ModelRef,
    Result,
    SampleJob,
    Welcome,
)
from comfy_gpu_offload.server.handler import Handler
from comfy_gpu_offload.transport.loopback import LoopbackTransport


@pytest.fixture
def backend() -> FunctionBackend:
    return FunctionBackend()


@pytest.fixture
def handler(backend: FunctionBackend) -> Iterator[Handler]:
    made = Handler(backend)
    yield made
    backend.release.set()
    made.close(10)


@pytest.fixture
def jobs(handler: Handler) -> QueueJobs:
    return QueueJobs(handler)


def job(frame: EncodedFrame | bytes) -> dict[str, str]:
    raw = frame if isinstance(frame, bytes) else frame.joined()
    return {"frame": base64.b64encode(raw).decode("ascii")}


def answered(jobs: QueueJobs, job_input: object) -> dict[str, str]:
    return asyncio.run(jobs.answer(job_input))


def opened(output: dict[str, Any]) -> Envelope:
    assert output.keys() == {"frame"}
    return open_frame(base64.b64decode(output["frame"], validate=True))


def error(output: dict[str, str]) -> tuple[dict[str, Any], Fault]:
    """Return the fields of a job's error, and the fault in its frame."""
    assert output.keys() == {"error"}
    fields = json.loads(output["error"])
    assert fields.keys() == {"code", "message", "retryable", "frame"}
    fault = open_frame(base64.b64decode(fields["frame"], validate=True)).message
    assert isinstance(fault, Fault)
    assert (fault.code.value, fault.message, fault.retryable) == (
        fields["code"],
        fields["message"],
        fields["retryable"],
    )
    return fields, fault


def begun(backend: FunctionBackend) -> asyncio.Future[bool]:
    return asyncio.ensure_future(asyncio.to_thread(backend.started.wait, 10))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_forward_call_gives_the_bits_that_the_handler_gives(
    jobs: QueueJobs, handler: Handler, dtype: torch.dtype
) -> None:
    x = torch.randn(2, 16, 8, 8).to(dtype)
    through = opened(answered(jobs, job(forward_frame(x, model="double", request="request-1", scale=[1, "a"]))))
    assert isinstance(through.message, Result)
    direct = open_frame(handler.handle(forward_frame(x, model="double", request="request-2").joined()).joined())
    assert torch.equal(through.unpack(), direct.unpack())
    assert torch.equal(through.unpack(), x * 2)


def test_it_says_hello(jobs: QueueJobs) -> None:
    hello = Hello(client=CLIENT, package="1", torch="2", codecs=("raw",))
    assert isinstance(opened(answered(jobs, job(seal(hello)))).message, Welcome)


def test_a_fault_is_an_error_with_its_code_and_its_frame(jobs: QueueJobs, backend: FunctionBackend) -> None:
    def broken(_: torch.Tensor) -> torch.Tensor:
        raise ValueError("shapes do not fit")

    backend.functions["broken"] = broken
    fields, fault = error(answered(jobs, job(forward_frame(torch.ones(1), model="broken"))))
    assert fields["code"] == "model_failed"
    assert "shapes do not fit" in fields["message"]
    assert fault.traceback is not None


def test_missing_tensors_are_listed_in_the_frame(jobs: QueueJobs) -> None:
    held = forward_frame(torch.ones(64), digests={0: b"d" * 32}, held=True)
    fields, fault = error(answered(jobs, job(held)))
    assert (fields["code"], fields["retryable"]) == ("missing_tensors", True)
    assert fault.missing == (b"d" * 32,)


@pytest.mark.parametrize(
    "job_input",
    [
        None,
        [],
        "frame",
        {},
        {"frame": None},
        {"frame": 7},
        {"frame": ["aGVsbG8="]},
        {"Frame": "aGVsbG8="},
        {"frame": "aGVsbG8=", "more": 1},
        {"frame": "not base64!"},
        {"frame": "aGVsbG8"},
        {"frame": "aGVs\nbG8="},
        {"frame": "aGVsbG8=é"},
    ],
)
def test_an_input_of_another_form_is_refused(jobs: QueueJobs, job_input: object) -> None:
    fields, _ = error(answered(jobs, job_input))
    assert (fields["code"], fields["retryable"]) == ("bad_message", False)


@pytest.mark.parametrize(("name", "frame"), malformed_frames().items())
def test_a_malformed_frame_is_refused_and_the_next_job_runs(jobs: QueueJobs, name: str, frame: bytes) -> None:
    fields, _ = error(answered(jobs, job(frame)))
    assert fields["code"] in {"bad_frame", "too_large"}, name
    assert torch.equal(opened(answered(jobs, job(forward_frame(torch.ones(3))))).unpack(), torch.ones(3))


def test_an_input_larger_than_any_job_is_refused_before_it_is_decoded(jobs: QueueJobs) -> None:
    fields, _ = error(answered(jobs, {"frame": "!" * (20 * 1024**2 + 1)}))
    assert fields["code"] == "too_large"


def test_an_output_that_would_be_lost_is_an_error_that_says_what_to_do(handler: Handler) -> None:
    x = torch.randn(1000)
    whole = answered(QueueJobs(handler), job(forward_frame(x, request="request-1")))
    size = len(json.dumps(whole))
    exact = answered(QueueJobs(handler, output_bytes=size), job(forward_frame(x, request="request-2")))
    assert torch.equal(opened(exact).unpack(), x)
    over = answered(QueueJobs(handler, output_bytes=size - 1), job(forward_frame(x, request="request-3")))
    fields, _ = error(over)
    assert (fields["code"], fields["retryable"]) == ("too_large", False)
    assert "MB" in fields["message"]
    assert "whole loop" in fields["message"]
    assert "load-balancing endpoint" in fields["message"]


@pytest.mark.parametrize(
    ("asked", "advice", "not_advised"),
    [
        ("forward", "offload: whole loop", "already"),
        ("sample", "This is a whole loop already", "offload: whole loop"),
        ("hello", "load-balancing endpoint", "whole loop"),
    ],
)
def test_advice_about_a_reply_that_is_too_large_fits_what_was_asked_for(
    handler: Handler, asked: str, advice: str, not_advised: str
) -> None:
    reference = ModelRef(name="echo")
    common = {"client": CLIENT, "model": reference, "fingerprint": FINGERPRINT, "reply_codec": "raw"}
    run = {"sampler": "echo", "scheduler": "simple", "seed": 1, "steps": 1, "cfg": 1.0}
    frames = {
        "forward": lambda: forward_frame(torch.randn(1000), request="request-9"),
        "sample": lambda: seal(SampleJob(request="request-9", **common, **run), pack({"latent": torch.ones(1000)})),
        "hello": lambda: seal(
            Hello(request="request-9", client=CLIENT, package="1", torch="2", codecs=("raw",), model=reference)
        ),
    }
    fields, fault = error(answered(QueueJobs(handler, output_bytes=100), job(frames[asked]())))
    assert fields["code"] == "too_large"
    assert advice in fields["message"]
    assert not_advised not in fields["message"]
    assert fault.request == "request-9"


def test_an_output_over_what_runpod_keeps_is_refused_by_default(jobs: QueueJobs, backend: FunctionBackend) -> None:
    backend.functions["large"] = lambda x: x.repeat(1800)  # 7.2 MB, and 9.6 MB in base64
    fields, _ = error(answered(jobs, job(forward_frame(torch.zeros(1000), model="large"))))
    assert fields["code"] == "too_large"
    assert "9.6 MB" in fields["message"]


class _ThroughJobs(LoopbackTransport):
    """Carries each frame as the input of a job, and its reply as the job's output."""

    def __init__(self, jobs: QueueJobs, handler: Handler) -> None:
        super().__init__(handler)
        self._jobs = jobs
        self.largest = 0

    def exchange(self, route: Any, frame: EncodedFrame, timeouts: Any, check: Any = None) -> memoryview:
        output = answered(self._jobs, job(frame))
        self.largest = max(self.largest, len(json.dumps(output)))
        (text,) = output.values()
        if "error" in output:
            text = json.loads(text)["frame"]
        return memoryview(bytearray(base64.b64decode(text)))


def test_a_reply_over_what_runpod_keeps_comes_in_several_jobs(
    jobs: QueueJobs, handler: Handler, backend: FunctionBackend
) -> None:
    calls = []

    def large(x: torch.Tensor) -> torch.Tensor:
        calls.append(x)
        return torch.arange(5_000_000, dtype=torch.float32)  # 20 MB

    backend.functions["large"] = large
    transport = _ThroughJobs(jobs, handler)
    options = SessionOptions(most_reply_bytes=SERVERLESS_REPLY_BYTES, uploads_at_once=1)
    with Session(transport, options) as session:
        result = session.model("large")(torch.zeros(1))
    assert torch.equal(result, torch.arange(5_000_000, dtype=torch.float32))
    assert len(calls) == 1
    assert 5_000_000 < transport.largest < 9_500_000


def test_cancelling_a_job_stops_the_model_and_the_next_job_runs(jobs: QueueJobs, backend: FunctionBackend) -> None:
    async def scene() -> dict[str, str]:
        waiting = asyncio.ensure_future(jobs.answer(job(forward_frame(torch.ones(1), model="wait"))))
        assert await begun(backend)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert backend.interrupted.is_set()
        following = job(forward_frame(torch.ones(3), model="double", request="request-2"))
        return await asyncio.wait_for(jobs.answer(following), 60)

    assert torch.equal(opened(asyncio.run(scene())).unpack(), torch.ones(3) * 2)


def test_cancelling_a_job_that_waits_its_turn_leaves_the_running_one_alone(
    jobs: QueueJobs, backend: FunctionBackend
) -> None:
    async def scene() -> dict[str, str]:
        running = asyncio.ensure_future(jobs.answer(job(forward_frame(torch.ones(1), model="wait"))))
        assert await begun(backend)
        queued = asyncio.ensure_future(jobs.answer(job(forward_frame(torch.ones(2), request="request-2"))))
        await asyncio.sleep(0.2)
        queued.cancel()
        with pytest.raises(asyncio.CancelledError):
            await queued
        backend.release.set()
        return await asyncio.wait_for(running, 60)

    assert torch.equal(opened(asyncio.run(scene())).unpack(), torch.ones(1))
    assert [name for name, _, _ in backend.calls] == ["wait"]


def test_a_job_cancelled_before_its_frame_was_read_ends_its_call(
    jobs: QueueJobs, handler: Handler, backend: FunctionBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, go_on = threading.Event(), threading.Event()
    submit = handler.submit

    def slowly(frame: Any) -> Any:
        reading.set()
        assert go_on.wait(60)
        return submit(frame)

    monkeypatch.setattr(handler, "submit", slowly)

    async def scene() -> None:
        early = asyncio.ensure_future(jobs.answer(job(forward_frame(torch.ones(1), model="wait"))))
        assert await asyncio.to_thread(reading.wait, 10)
        early.cancel()
        await asyncio.sleep(0.05)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await early
        following = job(forward_frame(torch.ones(3), request="request-2"))
        assert opened(await asyncio.wait_for(jobs.answer(following), 10))

    asyncio.run(scene())


def test_cancelling_a_job_that_is_no_call_ends_it(jobs: QueueJobs, backend: FunctionBackend) -> None:
    """A hello waits for its model to load; there is nothing to cancel but the wait."""

    async def scene() -> None:
        running = asyncio.ensure_future(jobs.answer(job(forward_frame(torch.ones(1), model="wait"))))
        assert await begun(backend)
        asking = Hello(client=CLIENT, package="1", torch="2", codecs=("raw",), model=ModelRef(name="echo"))
        hello = asyncio.ensure_future(jobs.answer(job(seal(asking))))
        await asyncio.sleep(0.1)
        hello.cancel()
        with pytest.raises(asyncio.CancelledError):
            await hello
        assert not backend.interrupted.is_set()
        backend.release.set()
        await running

    asyncio.run(scene())


def test_a_cancel_may_come_as_a_job_too(jobs: QueueJobs, backend: FunctionBackend) -> None:
    async def scene() -> tuple[dict[str, str], dict[str, str]]:
        running = asyncio.ensure_future(jobs.answer(job(forward_frame(torch.ones(1), model="wait"))))
        assert await begun(backend)
        cancelled = await jobs.answer(job(seal(Cancel(request="request-1"))))
        return cancelled, await asyncio.wait_for(running, 60)

    cancelled, ended = asyncio.run(scene())
    assert opened(cancelled).message == Cancelled(request="request-1", state="running")
    assert error(ended)[1].code is FaultCode.CANCELLED


def test_jobs_are_taken_side_by_side_and_the_loop_stays_free(jobs: QueueJobs, backend: FunctionBackend) -> None:
    inside: list[int] = []
    together: list[int] = []

    def counted(x: torch.Tensor) -> torch.Tensor:
        inside.append(1)
        together.append(len(inside))
        threading.Event().wait(0.02)
        inside.pop()
        return x

    backend.functions["counted"] = counted

    async def scene() -> list[dict[str, str]]:
        first = asyncio.ensure_future(jobs.answer(job(forward_frame(torch.zeros(1), model="wait"))))
        assert await begun(backend)
        rest = [
            asyncio.ensure_future(
                jobs.answer(job(forward_frame(torch.full((2,), i), model="counted", request=f"request-{i}-of-3")))
            )
            for i in range(3)
        ]
        await asyncio.sleep(0.1)  # the loop turns although the model is busy
        assert not any(task.done() for task in [first, *rest])
        backend.release.set()
        return await asyncio.gather(first, *rest)

    outputs = asyncio.run(scene())
    assert [opened(output).unpack()[0].item() for output in outputs] == [0.0, 0, 1, 2]
    assert together == [1, 1, 1], "the model ran more than one call at a time"


def test_a_handler_that_breaks_is_an_internal_fault_without_its_text(
    jobs: QueueJobs, handler: Handler, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")

    def broken(_: object) -> None:
        raise RuntimeError("a prompt nobody else may read")

    monkeypatch.setattr(handler, "submit", broken)
    fields, _ = error(answered(jobs, job(forward_frame(torch.ones(1)))))
    assert fields["code"] == "internal"
    assert "prompt" not in json.dumps(fields) + caplog.text


def test_no_frame_is_in_the_log(jobs: QueueJobs, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    inputs = [
        job(forward_frame(torch.full((64,), 7.25), model="double")),
        job(forward_frame(torch.full((64,), 7.25), model="nobody")),
        {"frame": "a prompt, not base64"},
        *[job(frame) for frame in malformed_frames().values()],
    ]
    outputs = [answered(jobs, job_input) for job_input in inputs]
    assert "a job ended with the fault bad_message" in caplog.text
    frames = [text for entry in inputs for text in entry.values() if len(text) > 8]
    frames += [text for output in outputs for text in output.values()]
    for text in frames:
        assert text[:24] not in caplog.text
        assert text[-24:] not in caplog.text
