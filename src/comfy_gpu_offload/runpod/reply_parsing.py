"""RunPod's replies, turned into one of the models of `schema` or into an error."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, SecretStr, ValidationError

from ..errors import (
    RunPodAuthError,
    RunPodError,
    RunPodNotFoundError,
    RunPodPayloadTooLargeError,
    RunPodRateLimitError,
    RunPodReplyError,
    RunPodRequestError,
    RunPodServerError,
    RunPodWrongKindError,
)
from .api_requests import Reply, Request
from .network_errors import DOUBT
from .options import RUN_BODY_BYTES, RUNSYNC_BODY_BYTES
from .retry import seconds_of

Model = TypeVar("Model", bound=BaseModel)

KEYS_PAGE = "https://console.runpod.io/user/settings"
ENDPOINTS_PAGE = "https://console.runpod.io/serverless"
_TEXT_BYTES = 4096


@dataclass(frozen=True)
class ReplyParser:
    """Parses the replies of one endpoint. `wall`: the time in seconds since 1970."""

    endpoint_id: str
    api_key: SecretStr
    wall: Callable[[], float]

    def parsed(self, kind: type[Model], reply: Reply, request: Request) -> Model:
        """Return the reply as a `kind`.

        Raises:
            RunPodReplyError: it is none. Names the fields, never what is in them.
        """
        try:
            return kind.model_validate_json(reply.body)
        except ValidationError as error:
            wrong = "; ".join(f"{_dotted(e['loc'])}: {e['msg']}" for e in error.errors()[:3])
        raise RunPodReplyError(
            f"RunPod's reply to {request.path} is not of the form it documents ({wrong}). Is RUNPOD_BASE_URL "
            f"RunPod's?{DOUBT if request.submits else ''}",
            status=reply.status,
            maybe_submitted=request.submits,
        )

    def raise_for_status(self, reply: Reply, request: Request) -> None:
        """Raise the error that the reply's status and text stand for, unless it is a success."""
        if not 200 <= reply.status < 300:
            raise self._error(reply, request)

    def _error(self, reply: Reply, request: Request) -> RunPodError:
        text = self._text(reply.body)
        said = text.lower()
        if reply.status in {401, 403}:
            return RunPodAuthError(
                f"RunPod refused the API key ({reply.status}). Set RUNPOD_API_KEY to one from {KEYS_PAGE} that "
                f"may use the endpoint {self.endpoint_id}.",
                status=reply.status,
            )
        if reply.status == 404:
            return RunPodNotFoundError(self._not_found(request), status=404)
        if reply.status == 413 or "exceeded max body size" in said:
            return payload_too_large(len(request.body or b""), body_limit(request), status=reply.status)
        if "not allowed for qb api" in said:
            return RunPodWrongKindError(
                f"The endpoint {self.endpoint_id} does not take jobs: it is a load-balancing endpoint. Set "
                "COMFY_GPU_OFFLOAD_ENDPOINT=load-balancer, or RUNPOD_ENDPOINT_ID to a queue endpoint.",
                status=reply.status,
            )
        return refusal_by_status(
            reply,
            request.path,
            said=f" It says: {text!r}" if text else "",
            doubt=DOUBT if request.submits else None,
            setting="RUNPOD_BASE_URL",
            now=self.wall(),
        )

    def _not_found(self, request: Request) -> str:
        if request.job_id is None:
            return (
                f"RunPod knows no endpoint {self.endpoint_id}: check RUNPOD_ENDPOINT_ID against {ENDPOINTS_PAGE}, "
                "and that RUNPOD_API_KEY is of the same account."
            )
        return (
            f"RunPod no longer knows the job {request.job_id}, or never did. A job is deleted when its ttl is "
            "over, even while it runs, and a result 30 minutes after /run, 1 minute after /runsync. Submit it anew."
        )

    def _text(self, body: bytes) -> str:
        """Return the first line of what a refusal says, at most 200 characters, without the key."""
        text = body[:_TEXT_BYTES].decode(errors="replace")
        with suppress(ValueError, RecursionError):  # it may be a page rather than JSON
            text = _said(json.loads(text), text)
        return first_line(text.replace(self.api_key.get_secret_value(), "***"), 200)


def payload_too_large(size: int, limit: int, *, status: int | None = None) -> RunPodPayloadTooLargeError:
    """Return the error for a request body of `size` bytes where `limit` are allowed."""
    return RunPodPayloadTooLargeError(
        f"This job takes {size / 1e6:.1f} MB as JSON, and RunPod's queue takes {limit / 1e6:.1f} MB on this route.",
        size_bytes=size,
        limit_bytes=limit,
        status=status,
    )


def body_limit(request: Request) -> int:
    """Return how many bytes a body may have on the request's route."""
    return RUNSYNC_BODY_BYTES if request.path.startswith("/runsync") else RUN_BODY_BYTES


def first_line(text: str, length: int) -> str:
    """Return the first line of `text` that is not blank, cut to `length` characters."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return line[:length]


def _said(value: Any, otherwise: str) -> str:
    if isinstance(value, dict):
        for name in ("error", "detail", "message", "title"):
            if isinstance(value.get(name), str):
                return str(value[name])
    return otherwise


def _dotted(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location) or "the whole"


def refusal_by_status(
    reply: Reply, asked: str, *, said: str, doubt: str | None, setting: str, now: float
) -> RunPodError:
    """Return the error for a reply that nothing but its status explains.

    Args:
        reply: no success.
        asked: what was asked for, in words or as a path.
        said: RunPod's words as a sentence with a space before it; empty for none.
        doubt: what to do where the request may have had its effect all the same; None if it has none.
        setting: the name of the setting that holds the API's address.
        now: seconds since 1970.
    """
    retry_after_s = seconds_of(reply.retry_after, now)
    if reply.status == 429:
        return RunPodRateLimitError(
            f"RunPod asks for fewer requests (429). Try again later.{said}", status=429, retry_after_s=retry_after_s
        )
    if reply.status >= 500:
        return RunPodServerError(
            f"RunPod failed to answer {asked} ({reply.status}).{said}"
            f"{' Try again later.' if doubt is None else doubt}",
            status=reply.status,
            maybe_submitted=doubt is not None,
            retry_after_s=retry_after_s,
        )
    if reply.status >= 400:
        return RunPodRequestError(f"RunPod refused {asked} ({reply.status}).{said}", status=reply.status)
    return RunPodReplyError(
        f"The answer to {asked} leads elsewhere ({reply.status}), where the API key must not go. Is {setting} "
        "RunPod's, and is there a login page in between?",
        status=reply.status,
    )
