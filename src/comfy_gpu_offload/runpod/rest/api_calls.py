"""Requests to the REST API, with their retries and the limit of requests."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel

from ...errors import RunPodError
from ...net.clock import Check, Clock
from ..api_requests import ApiHttp, Reply, Request
from ..retry import Retries, RetryPolicy
from .error_replies import ErrorReplies
from .rate_limit import Quota
from .reply_models import parsed

Model = TypeVar("Model", bound=BaseModel)


def _ignore(_: Reply) -> None:
    """Drop a reply that nobody waits for, of a request that began nothing."""


class ApiCalls:
    """Sends requests. Thread-safe."""

    def __init__(self, http: ApiHttp, errors: ErrorReplies, clock: Clock) -> None:
        self.http = http
        self.clock = clock
        self._errors = errors
        self._quota = Quota(clock)

    def ask(self, kind: type[Model], request: Request, policy: RetryPolicy, check: Check | None) -> Model:
        """Return the reply to a request that begins nothing, sent again as `policy` says."""
        return parsed(kind, self.call(request, policy, check), request)

    def call(self, request: Request, policy: RetryPolicy, check: Check | None) -> Reply:
        """Return the reply to a request, which is sent again as `policy` says.

        Raises:
            RunPodError: RunPod refused, failed, or could not be asked.
        """
        retries = Retries(policy, self.clock, check)
        while True:
            try:
                return self.once(request, policy.total_s, check)
            except RunPodError as error:
                if not retries.wait_after(error):
                    raise

    def once(self, request: Request, longest_s: float, check: Check | None) -> Reply:
        """Send a request once; return the reply. Wait before for the limit of requests, at most `longest_s`."""
        self.await_turn(request, longest_s, check)
        reply = self.http.exchange(request, check, _ignore)
        self.judge(reply, request)
        return reply

    def await_turn(self, request: Request, longest_s: float, check: Check | None) -> None:
        """Wait until RunPod's limit allows `request`, at most `longest_s`.

        Raises:
            RunPodRateLimitError: that takes longer.
        """
        if check is not None:
            check()
        if request.method != "DELETE":  # what bills is ended at once; a refusal costs nothing
            self._quota.wait(longest_s, check)

    def judge(self, reply: Reply, request: Request) -> None:
        """Take in the limit of requests that a reply tells, and raise the error that it stands for, if any."""
        self._quota.note(reply.rate_limit)
        self._errors.raise_for_status(reply, request)
