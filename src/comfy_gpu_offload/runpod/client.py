"""A client of RunPod's queue endpoints: jobs in, outputs out.

Routes and limits: https://docs.runpod.io/serverless/endpoints/send-requests
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, SecretStr

from ..config.address import Address
from ..config.settings import RUNPOD_API, is_header_text
from ..errors import ConfigError, OffloadError, RunPodError, RunPodRequestError
from ..net.clock import Check, Clock
from .api_requests import ApiHttp, Reply, Request
from .job_outcome import output_of
from .job_polling import Polls
from .options import RUN_BODY_BYTES, RUNSYNC_BODY_BYTES, RUNSYNC_WAIT_S, JobPolicy, RunPodOptions
from .reply_parsing import ENDPOINTS_PAGE, KEYS_PAGE, ReplyParser, payload_too_large
from .retry import Retries, RetryPolicy
from .schema import ID_PATTERN, EndpointHealth, Job, JobResult, JobStatus, StreamReply

logger = logging.getLogger(__name__)

Model = TypeVar("Model", bound=BaseModel)


class RunPodClient:
    """One queue endpoint, asked with one key. Thread-safe.

    `check`, wherever it is taken, is called at least every 0.1 s while something is waited for; what it raises
    ends the wait and is raised. A job whose submission was given up that way is cancelled as soon as RunPod
    names it; any other job goes on until `cancel`.

    Args:
        api_key: from https://console.runpod.io/user/settings; never shown.
        endpoint_id: as in the endpoint's address.
        base_url: the API that the endpoint is below.
        ca_file: certificates to trust besides, as `config.certificates` has it.
        clock: where the time of polls and retries comes from.

    Raises:
        ConfigError: one of them is not of the right form.

    Raised by every method that asks RunPod:
        RunPodError: it refused, failed, or could not be asked; which one says why. Those that are retryable have
            been tried again already, as the options say.
        TlsError: its certificate was not accepted.
    """

    def __init__(
        self,
        api_key: SecretStr,
        endpoint_id: str,
        *,
        base_url: Address = RUNPOD_API,
        ca_file: Path | None = None,
        options: RunPodOptions | None = None,
        clock: Clock | None = None,
    ) -> None:
        if not is_header_text(api_key.get_secret_value()):
            raise ConfigError(f"RUNPOD_API_KEY: a key is printable ASCII without spaces; make one on {KEYS_PAGE}")
        if not re.fullmatch(ID_PATTERN, endpoint_id):
            raise ConfigError(
                f"RUNPOD_ENDPOINT_ID: an endpoint's id is letters and digits, as {ENDPOINTS_PAGE} shows it"
            )
        self.endpoint_id = endpoint_id
        self._options = options or RunPodOptions()
        self._clock = clock or Clock()
        self._parser = ReplyParser(endpoint_id, api_key, self._clock.wall)
        self._http = ApiHttp(
            base_url.below(endpoint_id),
            api_key,
            connect_timeout_s=self._options.connect_timeout_s,
            reply_bytes=self._options.reply_bytes,
            ca_file=ca_file,
        )

    def submit_job(
        self, payload: Mapping[str, Any], *, policy: JobPolicy | None = None, check: Check | None = None
    ) -> Job:
        """Put a job with the input `payload` into the queue (``POST /run``).

        Sent again only where it is certain that RunPod did not take it.

        Raises:
            RunPodRequestError: `payload` is empty or no JSON; nothing was sent.
            RunPodPayloadTooLargeError: it takes more than 9.5 MB as JSON; nothing was sent.
        """
        body = _body(payload, policy, RUN_BODY_BYTES)
        request = Request("POST", "/run", self._options.run_timeout_s, body, submits=True)
        return self._ask(Job, request, self._options.retry, check)

    def run_sync(
        self,
        payload: Mapping[str, Any],
        *,
        wait_s: float = RUNSYNC_WAIT_S[1],
        policy: JobPolicy | None = None,
        check: Check | None = None,
    ) -> JobResult:
        """Submit a job and wait for it, 1 to 90 seconds (``POST /runsync``).

        The reply may be of a job that has not ended: then `get_result` waits on, within a minute of its end,
        which is how long RunPod keeps the result. `outcome.output_of` judges one that has.

        Raises:
            RunPodRequestError: `payload` is empty or no JSON, or `wait_s` out of bounds; nothing was sent.
            RunPodPayloadTooLargeError: it takes more than 19 MB as JSON; nothing was sent.
        """
        shortest, longest = RUNSYNC_WAIT_S
        if not shortest <= wait_s <= longest:
            raise RunPodRequestError(f"/runsync waits {shortest:.0f} to {longest:.0f} s, not {wait_s}")
        request = Request(
            "POST",
            f"/runsync?wait={round(wait_s * 1000)}",
            wait_s + self._options.runsync_beyond_wait_s,
            _body(payload, policy, RUNSYNC_BODY_BYTES),
            submits=True,
        )
        return self._ask(JobResult, request, self._options.retry, check)

    def get_job_status(self, job_id: str, *, check: Check | None = None) -> JobResult:
        """Return the job as it is now (``GET /status``)."""
        request = _about_job("GET", "/status", job_id, self._options.status_timeout_s)
        return self._ask(JobResult, request, self._options.retry, check)

    def get_result(self, job_id: str, *, timeout_s: float, check: Check | None = None) -> Any:
        """Return the job's output. Ask every 0.25 to 2 s until it has ended, for `timeout_s`.

        Raises:
            RunPodJobError: it ended without an output, or has not ended; which one says why.
        """
        _check_id(job_id)
        polls = Polls(job_id, self._options, self._clock, timeout_s, check)
        while True:
            polls.pause()
            result = self._look(JobResult, "/status", job_id, polls, check)
            if result.status.is_final:
                return output_of(result)

    def stream(self, job_id: str, *, timeout_s: float, check: Check | None = None) -> Iterator[Any]:
        """Yield what the job's handler yields, as it comes, until the job has ended (``GET /stream``).

        RunPod forgets a chunk with the reply that carries it: where a reply is lost, its chunks are. Number them
        at the worker to notice.

        Raises:
            RunPodJobError: the job failed, was ended, or has not ended within `timeout_s`.
        """
        _check_id(job_id)
        return self._chunks(job_id, Polls(job_id, self._options, self._clock, timeout_s, check), check)

    def cancel(self, job_id: str) -> None:
        """End the job, in the queue or on its worker (``POST /cancel``)."""
        request = _about_job("POST", "/cancel", job_id, self._options.cancel_timeout_s)
        self._call(request, self._options.cancel_retry, None)

    def health(self, *, check: Check | None = None) -> EndpointHealth:
        """Return the endpoint's workers and jobs (``GET /health``). Load-balancing endpoints answer it too."""
        request = Request("GET", "/health", self._options.status_timeout_s)
        return self._ask(EndpointHealth, request, self._options.retry, check)

    def close(self) -> None:
        """Close the connections that are not in use. A later call opens new ones."""
        self._http.close()

    def forked(self) -> None:
        """Leave the connections to the process that this one was forked from. A later call opens new ones."""
        self._http.forked()

    def __enter__(self) -> RunPodClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _chunks(self, job_id: str, polls: Polls, check: Check | None) -> Iterator[Any]:
        while True:
            polls.pause()
            reply = self._look(StreamReply, "/stream", job_id, polls, check)
            for chunk in reply.stream:
                yield chunk.output
            if reply.stream:
                polls.hasten()  # the last chunks may come after the status that ends the job
            elif reply.status.is_final:
                break
        if reply.status is not JobStatus.COMPLETED:
            output_of(self._look(JobResult, "/status", job_id, polls, check))

    def _look(self, kind: type[Model], route: str, job_id: str, polls: Polls, check: Check | None) -> Model:
        request = _about_job("GET", route, job_id, polls.request_timeout_s())
        return self._ask(kind, request, self._options.poll_retry, check, polls.deadline)

    def _ask(
        self,
        kind: type[Model],
        request: Request,
        policy: RetryPolicy,
        check: Check | None,
        deadline: float | None = None,
    ) -> Model:
        return self._parser.parsed(kind, self._call(request, policy, check, deadline), request)

    def _call(
        self, request: Request, policy: RetryPolicy, check: Check | None, deadline: float | None = None
    ) -> Reply:
        """Return the reply to a request, which is sent again as `policy` says."""
        retries = Retries(policy, self._clock, check, deadline)
        late = self._cancel_late if request.submits else _ignore
        while True:
            if check is not None:
                check()  # before anything is sent that would have to be cancelled
            try:
                reply = self._http.exchange(request, check, late)
                self._parser.raise_for_status(reply, request)
                return reply
            except RunPodError as error:
                if not retries.wait_after(error):
                    raise

    def _cancel_late(self, reply: Reply) -> None:
        """End a job that RunPod took after its caller had gone."""
        try:
            job = Job.model_validate_json(reply.body)
            if not job.status.is_final:
                self.cancel(job.id)
                logger.info("A job whose caller had gone was cancelled")
        except (OffloadError, ValueError) as error:
            logger.info("A submission that was given up left no job to cancel (%s)", type(error).__name__)


def _ignore(_: Reply) -> None:
    """Drop a reply that nobody waits for, of a request that began nothing."""


def _about_job(method: Any, route: str, job_id: str, timeout_s: float) -> Request:
    _check_id(job_id)
    return Request(method, f"{route}/{job_id}", timeout_s, job_id=job_id)


def _check_id(job_id: str) -> None:
    if not re.fullmatch(ID_PATTERN, job_id):
        raise RunPodRequestError("This is no job's id: it holds what cannot stand in an address")


def _body(payload: Mapping[str, Any], policy: JobPolicy | None, limit: int) -> bytes:
    """Return the request's body.

    Raises:
        RunPodRequestError: no input, or no JSON.
        RunPodPayloadTooLargeError: over `limit` bytes.
    """
    if not payload:
        raise RunPodRequestError("A job needs an input: RunPod fails an empty one as `job timed out`")
    fields: dict[str, Any] = {"input": dict(payload)}
    if policy is not None:
        fields["policy"] = policy.as_json()
    try:
        body = json.dumps(fields, separators=(",", ":"), allow_nan=False).encode("ascii")
    except (TypeError, ValueError, RecursionError) as error:
        raise RunPodRequestError(f"A job's input is JSON, and this is not: {error}") from error
    if len(body) > limit:
        raise payload_too_large(len(body), limit)
    return body
