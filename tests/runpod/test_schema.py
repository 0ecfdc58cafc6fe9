from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError
from tests.support.runpod_api import ENDPOINT, JOB, KEY, job_reply

from comfy_gpu_offload.errors import RunPodReplyError
from comfy_gpu_offload.runpod.api_requests import Reply, Request
from comfy_gpu_offload.runpod.reply_parsing import Model, ReplyParser
from comfy_gpu_offload.runpod.schema import EndpointHealth, Job, JobResult, JobStatus, StreamReply

REPLIES = ReplyParser(ENDPOINT, SecretStr(KEY), lambda: 0.0)
REQUEST = Request("GET", "/status/x", 1.0)


def parsed(kind: type[Model], value: Any) -> Model:
    return REPLIES.parsed(kind, Reply(200, json.dumps(value).encode()), REQUEST)


def test_a_status_is_read_whole_and_what_is_unknown_is_let_pass() -> None:
    value = job_reply(
        "FAILED", error="x", delayTime=31, executionTime=12.5, workerId="w1", retries=1, somethingNew={"a": [1]}
    )
    result = parsed(JobResult, value)
    assert (result.id, result.status, result.error) == (JOB, JobStatus.FAILED, "x")
    assert (result.delay_ms, result.execution_ms, result.worker_id, result.retries) == (31, 12.5, "w1", 1)


def test_every_documented_state_is_known_and_four_of_them_are_ends() -> None:
    states = ["IN_QUEUE", "IN_PROGRESS", "RUNNING", "COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"]
    assert [s for s in states if parsed(Job, job_reply(s)).status.is_final] == states[3:]


def test_a_value_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        parsed(Job, job_reply()).id = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Job, {"id": JOB}),
        (Job, {"status": "IN_QUEUE"}),
        (Job, {"id": 5, "status": "IN_QUEUE"}),
        (Job, {"id": "../../v1/other", "status": "IN_QUEUE"}),
        (Job, {"id": JOB + "\n", "status": "IN_QUEUE"}),
        (Job, {"id": JOB, "status": "EXPLODED"}),
        (Job, [JOB]),
        (Job, None),
        (JobResult, job_reply("COMPLETED", delayTime="31")),
        (JobResult, job_reply("COMPLETED", retries=True)),
        (StreamReply, {"status": "IN_PROGRESS", "stream": {"output": 1}}),
        (StreamReply, {"status": "IN_PROGRESS", "stream": [{"text": 1}]}),
        (EndpointHealth, {"jobs": {}}),
        (EndpointHealth, {"jobs": {}, "workers": {"ready": "2"}}),
        (EndpointHealth, {"jobs": {}, "workers": {"ready": -1}}),
    ],
)
def test_what_is_not_of_the_documented_form_is_refused(kind: type[Any], value: Any) -> None:
    with pytest.raises(RunPodReplyError, match="form") as caught:
        parsed(kind, value)
    assert not caught.value.retryable


def test_a_refusal_names_the_fields_and_not_what_is_in_them() -> None:
    with pytest.raises(RunPodReplyError) as caught:
        parsed(JobResult, {"id": "a prompt about cats", "status": "COMPLETED", "delayTime": "secret words"})
    assert "delayTime" in str(caught.value)
    assert "cats" not in str(caught.value)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_outputs_are_not_shown() -> None:
    result = parsed(JobResult, job_reply("COMPLETED", output="a picture", error="of cats"))
    chunks = parsed(StreamReply, {"status": "COMPLETED", "stream": [{"output": "a picture"}]})
    assert "picture" not in f"{result!r} {result} {chunks!r} {chunks.stream[0]!r}"
    assert "cats" not in repr(result)


def test_health_has_both_tables_and_defaults_for_what_is_left_out() -> None:
    value = {
        "jobs": {"completed": 3, "failed": 1, "inProgress": 2, "inQueue": 4, "retried": 5},
        "workers": {"idle": 1, "initializing": 2, "ready": 3, "running": 4, "throttled": 5, "unhealthy": 6, "x": 0},
    }
    health = parsed(EndpointHealth, value)
    assert (health.jobs.in_progress, health.jobs.in_queue, health.jobs.retried) == (2, 4, 5)
    workers = health.workers
    assert (workers.idle, workers.initializing, workers.ready) == (1, 2, 3)
    assert workers.up == 5
    assert (workers.running, workers.throttled, workers.unhealthy) == (4, 5, 6)
    assert parsed(EndpointHealth, {"jobs": {}, "workers": {"running": 1}}).workers.up == 1
