"""Errors for what the REST API refuses, each with its own words.

Refusals are RFC 9457 problems: ``{title, status, detail, errors}``. "No capacity" and "a rule is broken" share the
status 400 and differ by their text alone: the words of capacity are listed here, and all else is a broken rule.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr

from ...errors import (
    RunPodAuthError,
    RunPodBalanceError,
    RunPodCapacityError,
    RunPodError,
    RunPodForbiddenError,
    RunPodNotFoundError,
    RunPodRuleError,
)
from ..api_requests import Reply, Request
from ..reply_parsing import KEYS_PAGE, first_line, refusal_by_status

BILLING_PAGE = "https://console.runpod.io/user/billing"
_TEXT_BYTES = 16 * 1024
_MOST_FIELDS = 10

_THINGS = r"(instances?|machines?|hosts?|gpus?|workers?|capacity|resources?|stock|availability)"
_NO_CAPACITY = re.compile(
    rf"\bno\s+(longer\s+)?(\w+\s+){{0,3}}{_THINGS}\b|\b{_THINGS}\s+(\w+\s+){{0,3}}(not|un)\s*available"
    r"|\bout of (stock|capacity)\b|\b(insufficient|not enough|lack of) (capacity|resources|gpus?|stock)\b"
    r"|\bcould not (be placed|find (a|any) (machine|host|instance|gpu)s?)\b",
    re.IGNORECASE,
)
_NO_BALANCE = re.compile(r"\b(balance|funds?|credits?)\b", re.IGNORECASE)


@dataclass(frozen=True)
class _Problem:
    """A refusal's text in one line, and its sentences about fields. None holds a secret."""

    said: str
    fields: tuple[str, ...]

    def __str__(self) -> str:
        return "; ".join(part for part in (self.said, *self.fields) if part)


class ErrorReplies:
    """Makes errors of replies. `wall`: the time in seconds since 1970."""

    def __init__(self, api_key: SecretStr, wall: Callable[[], float]) -> None:
        self._api_key = api_key
        self._wall = wall

    def raise_for_status(self, reply: Reply, request: Request) -> None:
        """Raise the error that the reply's status and text stand for, unless it is a success."""
        if not 200 <= reply.status < 300:
            raise self._error(reply, request)

    def _error(self, reply: Reply, request: Request) -> RunPodError:
        problem = self._problem(reply.body, request)
        asked = f"{request.method} {request.path.partition('?')[0]}"
        if reply.status in {401, 402, 403, 404}:
            return _refusal(reply.status, problem, asked)
        if request.submits and reply.status in {400, 409, 500, 503} and _NO_CAPACITY.search(str(problem)):
            return RunPodCapacityError(
                f"RunPod has no such GPU free at present ({problem}). Try another type, data centre "
                "or cloud, or wait.",
                status=reply.status,
            )
        if request.submits and reply.status == 400 and _NO_BALANCE.search(str(problem)):
            return _refusal(402, problem, asked)
        if reply.status in {400, 422}:
            return RunPodRuleError(
                f"RunPod refused {asked}, because the request breaks a rule ({reply.status}): {problem}. "
                "Change what it names.",
                status=reply.status,
                fields=problem.fields,
            )
        return self._other(reply, request, asked, f" It says: {str(problem)!r}" if str(problem) else "")

    def _other(self, reply: Reply, request: Request, asked: str, said: str) -> RunPodError:
        return refusal_by_status(
            reply,
            asked,
            said=said,
            doubt=request.doubt if request.submits else None,
            setting="COMFY_GPU_OFFLOAD_RUNPOD_API",
            now=self._wall(),
        )

    def _problem(self, body: bytes, request: Request) -> _Problem:
        text = body[:_TEXT_BYTES].decode(errors="replace")
        for secret in (self._api_key.get_secret_value(), *request.secrets):
            text = text.replace(secret, "***")
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):  # a page rather than JSON
            return _Problem(_line(text), ())
        return _problem_of(value) if isinstance(value, dict) else _Problem("", ())


def _problem_of(value: dict[Any, Any]) -> _Problem:
    said = next(
        (value[name] for name in ("detail", "message", "error", "title") if isinstance(value.get(name), str)), ""
    )
    fields = value.get("errors")
    listed = fields if isinstance(fields, list) else []
    return _Problem(_line(said), tuple(_line(item) for item in listed[:_MOST_FIELDS] if isinstance(item, str)))


def _line(text: str) -> str:
    """Return the first line of `text`, printable, at most 300 characters, without a full stop."""
    line = first_line(text, 300).rstrip(". ")
    return "".join(character if character.isprintable() else "?" for character in line)


def _refusal(status: int, problem: _Problem, asked: str) -> RunPodError:
    if status == 401:
        return RunPodAuthError(
            f"RunPod refused the API key (401). Set RUNPOD_API_KEY to one from {KEYS_PAGE}.", status=401
        )
    if status == 402:
        return RunPodBalanceError(
            f"The RunPod account has too little credit ({problem}): at least an hour's price is needed. Add some "
            f"at {BILLING_PAGE}.",
            status=402,
        )
    if status == 403:
        return RunPodForbiddenError(
            f"The API key may not do this: {asked} (403: {problem}). Give it write permission for pods and "
            f"serverless at {KEYS_PAGE}.",
            status=403,
        )
    return RunPodNotFoundError(
        f"RunPod knows nothing at {asked} (404: {problem}): it is deleted, or of another account.", status=404
    )
