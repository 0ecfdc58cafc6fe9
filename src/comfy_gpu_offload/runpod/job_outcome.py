"""The outcome of a job that has ended: its output, or an error."""

from __future__ import annotations

import json
import re
from typing import Any

from ..errors import (
    RunPodJobCancelledError,
    RunPodJobError,
    RunPodJobFailedError,
    RunPodJobTimedOutError,
    RunPodJobUnfinishedError,
    RunPodOutputLostError,
)
from .reply_parsing import first_line
from .schema import JobResult, JobStatus

_MESSAGE_LENGTH = 500
# RunPod says this of a worker that died, of a handler that never answered, and of an empty input.
_GENERIC = re.compile(r"job timed out after \d+ retr")
_CLASS = re.compile(r"<class '(?:builtins\.)?([\w.]+)'>")


def output_of(result: JobResult) -> Any:
    """Return the output of a job that completed.

    Raises:
        RunPodJobError: there is none; which one says why.
    """
    if result.status is JobStatus.COMPLETED and result.output is not None:
        return result.output
    raise _error_of(result)


def _error_of(result: JobResult) -> RunPodJobError:
    job_id = result.id
    match result.status:
        case JobStatus.COMPLETED:
            return RunPodOutputLostError(
                f"The job {job_id} completed, and its output is lost: it was larger than RunPod keeps (10 MB after "
                "/run, 20 MB after /runsync), or the handler returned nothing. Use a smaller batch or picture.",
                job_id=job_id,
            )
        case JobStatus.FAILED:
            return _failure(job_id, result.error)
        case JobStatus.TIMED_OUT:
            return RunPodJobTimedOutError(
                f"RunPod ended the job {job_id}: its time was over, in the queue or on a worker. Raise the "
                "endpoint's execution timeout, or its number of workers, on https://console.runpod.io/serverless.",
                job_id=job_id,
            )
        case JobStatus.CANCELLED:
            return RunPodJobCancelledError(f"The job {job_id} was cancelled.", job_id=job_id)
        case _:
            return RunPodJobUnfinishedError(
                f"The job {job_id} has not ended yet ({result.status.value}).", job_id=job_id
            )


def _failure(job_id: str, error: Any) -> RunPodJobFailedError:
    detail = _detail(error)
    message = _message(error, detail)
    code = detail.get("code") if detail is not None else None
    hint = (
        " RunPod says this of any worker that died or never answered: look for the reason in the endpoint's logs "
        "(out of memory, an image that does not start, a crash) on https://console.runpod.io/serverless."
        if _GENERIC.search(message)
        else ""
    )
    return RunPodJobFailedError(
        f"The job {job_id} failed on its worker: {message}{hint}",
        job_id=job_id,
        message=message,
        code=code if isinstance(code, str) else None,
        detail=detail,
        retryable=detail is not None and detail.get("retryable") is True,
    )


def _detail(error: Any) -> dict[str, Any] | None:
    """Return the JSON object that an error is, or that its text holds."""
    value = error
    if isinstance(error, str) and error.lstrip().startswith("{"):
        try:
            value = json.loads(error)
        except (ValueError, RecursionError):
            return None  # a text that only looks like JSON
    return value if isinstance(value, dict) else None


def _message(error: Any, detail: dict[str, Any] | None) -> str:
    text = error if isinstance(error, str) else ""
    if detail is not None:
        text = _said_by_us(detail) or _said_by_the_sdk(detail) or "no message"
    return first_line(text, _MESSAGE_LENGTH) or "no message"


def _said_by_us(detail: dict[str, Any]) -> str:
    """Read an error of our worker's form: code, message, retryable, frame."""
    message = detail.get("message")
    return message if isinstance(message, str) else ""


def _said_by_the_sdk(detail: dict[str, Any]) -> str:
    """Read an exception in the SDK's form: error_type (a class's repr), error_message, error_traceback."""
    message, kind = detail.get("error_message"), detail.get("error_type")
    found = _CLASS.search(kind) if isinstance(kind, str) else None
    parts = [found.group(1) if found else "", message if isinstance(message, str) else ""]
    return ": ".join(part for part in parts if part)
