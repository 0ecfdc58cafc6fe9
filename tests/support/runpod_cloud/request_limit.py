"""RunPod's limit of requests, told in the headers of each reply."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from .body_rules import problem

_WINDOW_S = 60


class RequestLimit:
    """Counts the requests of a minute."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._begun = now()
        self._count = 0

    def count(self, per_minute: int | None) -> tuple[dict[str, str], web.Response | None]:
        """Count a request. Return the headers of its reply, and the refusal if it is one too many."""
        if per_minute is None:
            return {}, None
        if self._now() - self._begun >= _WINDOW_S:
            self._begun, self._count = self._now(), 0
        self._count += 1
        left_s = max(1, round(self._begun + _WINDOW_S - self._now()))
        left = max(0, per_minute - self._count)
        headers = {
            "RateLimit": f'"minute";r={left};t={left_s}, "hour";r=2800;t=1812',
            "RateLimit-Policy": f'"minute";q={per_minute};w=60, "hour";q=3000;w=3600',
        }
        if self._count <= per_minute:
            return headers, None
        return headers, problem(429, "rate limit exceeded for the minute window", Retry_After=str(left_s))
