from __future__ import annotations

import json
from typing import Any

import pytest
from tests.support.runpod_api import JOB, job_reply

from comfy_gpu_offload.errors import (
    RunPodJobCancelledError,
    RunPodJobError,
    RunPodJobFailedError,
    RunPodJobTimedOutError,
    RunPodJobUnfinishedError,
    RunPodOutputLostError,
)
from comfy_gpu_offload.runpod.job_outcome import output_of
from comfy_gpu_offload.runpod.schema import JobResult


def result(status: str, **fields: Any) -> JobResult:
    return JobResult.model_validate_json(json.dumps(job_reply(status, **fields)))


def failure(error: Any) -> RunPodJobFailedError:
    with pytest.raises(RunPodJobFailedError) as caught:
        output_of(result("FAILED", error=error))
    assert caught.value.job_id == JOB
    return caught.value


@pytest.mark.parametrize("output", [{"frame": "AAAA"}, [], {}, "", 0, False])
def test_an_output_is_any_json_value(output: Any) -> None:
    assert output_of(result("COMPLETED", output=output)) == output


@pytest.mark.parametrize(
    ("reply", "kind", "says"),
    [
        (result("COMPLETED"), RunPodOutputLostError, "larger than RunPod keeps"),
        (result("COMPLETED", output=None), RunPodOutputLostError, "larger than RunPod keeps"),
        (result("TIMED_OUT"), RunPodJobTimedOutError, "execution timeout"),
        (result("CANCELLED"), RunPodJobCancelledError, "cancelled"),
        (result("IN_PROGRESS"), RunPodJobUnfinishedError, "IN_PROGRESS"),
        (result("FAILED"), RunPodJobFailedError, "no message"),
    ],
)
def test_every_other_end_has_its_own_error(reply: JobResult, kind: type[RunPodJobError], says: str) -> None:
    with pytest.raises(RunPodJobError, match=says) as caught:
        output_of(reply)
    assert type(caught.value) is kind
    assert not caught.value.retryable
    assert caught.value.job_id == JOB


@pytest.mark.parametrize("retryable", [True, False])
def test_our_workers_fault_is_read_whole(retryable: bool) -> None:
    detail = {"code": "busy", "message": "too many calls", "retryable": retryable, "frame": "Q0dPRg=="}
    error = failure(json.dumps(detail))
    assert (error.code, error.message, error.retryable) == ("busy", "too many calls", retryable)
    assert error.detail == detail
    assert "Q0dPRg" not in f"{error!s} {error!r}"


def test_a_fault_that_came_as_an_object_is_read_too() -> None:
    assert failure({"code": "internal", "message": "oh"}).code == "internal"


def test_an_exception_in_a_handler_is_told_by_its_type_and_message() -> None:
    detail = {
        "error_type": "<class 'torch.OutOfMemoryError'>",
        "error_message": "no room\nfor this",
        "error_traceback": "Traceback (most recent call last): /app/secret.py",
        "hostname": "h",
    }
    error = failure(json.dumps(detail))
    assert error.message == "torch.OutOfMemoryError: no room"
    assert error.code is None
    assert error.detail == detail
    assert "secret.py" not in str(error)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("plain words", "plain words"),
        ("\n  first \nsecond", "first"),
        ("{not json", "{not json"),
        ('["a"]', '["a"]'),
        ("", "no message"),
        ("{}", "no message"),
        ('{"code": 5, "message": ["x"]}', "no message"),
        ("x" * 2000, "x" * 500),
        ('{"a":' * 100_000, '{"a":' * 100),
    ],
)
def test_any_other_text_is_its_first_line(text: str, message: str) -> None:
    error = failure(text)
    assert error.message == message
    assert error.code is None
    assert not error.retryable


@pytest.mark.parametrize("error", [5, ["a"], True])
def test_an_error_of_another_type_is_still_a_failure(error: Any) -> None:
    assert failure(error).message == "no message"


def test_the_platforms_generic_failure_gets_a_hint() -> None:
    error = failure("job timed out after 1 retries")
    assert error.message == "job timed out after 1 retries"
    assert "endpoint's logs" in str(error)
    assert "endpoint's logs" not in str(failure("something else"))
