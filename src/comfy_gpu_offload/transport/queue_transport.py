"""The transport to a RunPod queue endpoint: each exchange is a job, its frames base64 in JSON.

The queue has no affinity and no connection to a worker, so a job costs about 0.1 s at best and polling adds to it.
"""

from __future__ import annotations

import base64
import binascii
import logging
from collections.abc import Generator
from time import monotonic
from typing import Any

from ..config.endpoint import Serverless
from ..config.settings import Settings
from ..errors import (
    ConnectionLostError,
    ExchangeTimeoutError,
    RunPodError,
    RunPodJobFailedError,
    RunPodJobUnfinishedError,
    RunPodPayloadTooLargeError,
    RunPodReplyError,
)
from ..io.buffers import allocate
from ..io.frame import EncodedFrame
from ..runpod.client import RunPodClient
from ..runpod.job_outcome import output_of
from ..runpod.options import RUN_BODY_BYTES, JobPolicy
from ..runpod.schema import JobResult
from . import startup_time
from .base import Carrier, Check, Notify, Route, Timeouts
from .oversized_requests import too_large

logger = logging.getLogger(__name__)

# Base64 makes four bytes of three; the rest of the request is the policy and some quotes.
_RUN_FRAME_BYTES = (RUN_BODY_BYTES - 1024) // 4 * 3
# A call that takes no longer needs no polling; one that is interrupted can be cancelled no sooner.
_WAIT_S = 2.0
# Seconds for a whole sampling run as one job.
_WHOLE_RUN_S = 3600.0
_ELSEWHERE = "a load-balancing endpoint, which takes 28 MB, or a pod, which has no limit"
# Seconds for fetching the output of a job that has ended.
_FETCH_S = 60.0
_QUIET_S = 3.0
_NOTICE_S = 1.0


def from_settings(settings: Settings, _: Serverless, api: RunPodClient, notify: Notify) -> QueueTransport:
    """Return the transport to the queue endpoint that `api` asks."""
    return QueueTransport(api, wake_s=settings.wake_timeout_s, max_frame_bytes=settings.frame_bytes, notify=notify)


class QueueTransport:
    """Carries frames as jobs of a queue endpoint.

    Args:
        api: of that endpoint.
        wake_s: seconds that a job may take in addition, for a worker to start.
        max_frame_bytes: the largest reply accepted.
        notify: called every second with what is waited for, once it takes long.
    """

    carrier = Carrier("jobs of a queue")
    carries_cancel = False

    def __init__(self, api: RunPodClient, *, wake_s: float, max_frame_bytes: int, notify: Notify) -> None:
        self._api = api
        self.peer = f"RunPod endpoint {api.endpoint_id}"
        self._wake_s = wake_s
        self._max_frame_bytes = max_frame_bytes
        self._notify = notify
        self._has_warned = False

    def exchange(
        self, route: Route, frame: EncodedFrame, timeouts: Timeouts, check: Check | None = None
    ) -> memoryview:
        """See `Transport`. A job whose exchange ends early, by `check` or by its time, is cancelled.

        Raises:
            RunPodPayloadTooLargeError: over what a job's input may take; found before anything is sent.
            RunPodError: RunPod refused, or the job gave no reply.
        """
        if route == "forward":
            self._warn_once()
        payload = _payload(frame)
        run_s = _WHOLE_RUN_S if route == "sample" else timeouts.exchange_s
        total_s = run_s + self._wake_s
        policy = JobPolicy(execution_timeout_s=max(5.0, run_s), ttl_s=max(10.0, total_s))
        watch = _Watch(self._notify, check)
        try:
            if route != "forward" and frame.size_bytes <= _RUN_FRAME_BYTES:
                job = self._api.submit_job(payload, policy=policy, check=watch)
                return self._received(self._result(job.id, total_s, watch))
            done = self._api.run_sync(payload, wait_s=_WAIT_S, policy=policy, check=watch)
            return self._received(self._output(done, total_s, watch))
        except RunPodJobFailedError as error:
            return self._fault(error)
        except RunPodPayloadTooLargeError as error:
            raise _advised(error, route) from error
        except RunPodError as error:
            if route == "forward" and error.maybe_submitted:
                # A forward call is pure: sent again it may be billed twice, and the picture is the same.
                raise ConnectionLostError(f"The reply to a job was lost: {error}") from error
            raise

    def stream(
        self, route: Route, frame: EncodedFrame, timeouts: Timeouts, check: Check | None = None
    ) -> Generator[memoryview]:
        """See `Transport`. What the worker tells meanwhile comes by the job's stream, and the end as its output."""
        if frame.size_bytes > _RUN_FRAME_BYTES:  # only /runsync takes it, and that tells nothing meanwhile
            yield self.exchange(route, frame, timeouts, check)
            return
        total_s = _WHOLE_RUN_S + self._wake_s
        watch = _Watch(self._notify, check)
        policy = JobPolicy(execution_timeout_s=_WHOLE_RUN_S, ttl_s=total_s)
        try:
            job = self._api.submit_job(_payload(frame), policy=policy, check=watch)
        except RunPodPayloadTooLargeError as error:
            raise _advised(error, route) from error
        try:
            for output in self._api.stream(job.id, timeout_s=total_s, check=watch):
                watch.quieten()
                yield self._received(output)
            yield self._received(self._api.get_result(job.id, timeout_s=_FETCH_S, check=watch))
        except RunPodJobFailedError as error:
            yield self._fault(error)
        except RunPodError as error:
            if isinstance(error, RunPodJobUnfinishedError):
                self._cancel(job.id)
            raise
        except BaseException:  # the caller's own word: an interrupt
            self._cancel(job.id)
            raise

    def close(self) -> None:
        """See `Transport`."""
        self._api.close()

    def forked(self) -> None:
        """See `Transport`."""
        self._api.forked()

    def _output(self, result: JobResult, total_s: float, watch: _Watch) -> Any:
        if not result.status.is_final:
            return self._result(result.id, total_s, watch)
        startup_time.add((result.delay_ms or 0) / 1000)
        return output_of(result)

    def _result(self, job_id: str, total_s: float, watch: _Watch) -> Any:
        try:
            return self._api.get_result(job_id, timeout_s=total_s, check=watch)
        except RunPodJobUnfinishedError as error:
            self._cancel(job_id)
            raise ExchangeTimeoutError(
                f"RunPod has not run the job within {total_s:.0f} s. Look at the endpoint's workers in RunPod's "
                "console: its GPU type may be sold out, or its image may fail to start."
            ) from error
        except RunPodError:
            raise
        except BaseException:  # the caller's own word: an interrupt
            self._cancel(job_id)
            raise

    def _cancel(self, job_id: str) -> None:
        try:
            self._api.cancel(job_id)
        except RunPodError as error:
            logger.warning("RunPod could not be told that a job is cancelled: %s", error)

    def _received(self, output: Any) -> memoryview:
        text = output.get("frame") if isinstance(output, dict) else None
        if not isinstance(text, str):
            raise RunPodReplyError(
                "The job's output holds no frame: is this endpoint's worker comfy-gpu-offload's worker/handler.py?"
            )
        return self._decoded(text)

    def _decoded(self, text: str) -> memoryview:
        if len(text) // 4 * 3 > self._max_frame_bytes + 2:
            raise RunPodReplyError(
                f"The job's output is over the {self._max_frame_bytes} bytes allowed "
                "(COMFY_GPU_OFFLOAD_FRAME_BYTES)."
            )
        try:
            data = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise RunPodReplyError("The job's output is not base64.") from error
        frame = allocate(len(data))
        frame[:] = data
        return frame

    def _fault(self, error: RunPodJobFailedError) -> memoryview:
        """Return the frame of the worker's fault, or raise `error` if the job failed without one."""
        text = (error.detail or {}).get("frame")
        if not isinstance(text, str):
            raise error
        return self._decoded(text)

    def _warn_once(self) -> None:
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "Each forward call is a job of its own in RunPod's queue, which takes 0.1 s a call at the very "
                "least and bills the time between calls. A load-balancing endpoint has neither; so has the whole "
                "loop as one job (Remote Sampler, offload: whole loop)."
            )


def _advised(error: RunPodPayloadTooLargeError, route: Route) -> RunPodPayloadTooLargeError:
    sizes = {"size_bytes": error.size_bytes, "limit_bytes": error.limit_bytes}
    return too_large(route, str(error), _ELSEWHERE, **sizes)


def _payload(frame: EncodedFrame) -> dict[str, str]:
    return {"frame": base64.b64encode(frame.joined()).decode("ascii")}


class _Watch:
    """A check that also tells the user how long a job has been waited for."""

    def __init__(self, notify: Notify, check: Check | None) -> None:
        self._notify = notify
        self._check = check
        self._started = monotonic()
        self._next = self._started + _QUIET_S

    def quieten(self) -> None:
        """Say nothing for a while: the worker was heard of."""
        self._next = monotonic() + 10 * _QUIET_S

    def __call__(self) -> None:
        if self._check is not None:
            self._check()
        now = monotonic()
        if now >= self._next:
            self._next = now + _NOTICE_S
            self._notify(f"waiting for RunPod's queue and its worker, {now - self._started:.0f} s")
