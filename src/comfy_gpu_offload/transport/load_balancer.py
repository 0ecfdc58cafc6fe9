"""The transport to a RunPod load-balancing endpoint: HTTP to a worker that may still have to be started.

The edge has no queue: without a worker it hangs, or answers 400, 502, 503 or 524. That is no fault but a start.
docs.runpod.io, "Load balancing endpoints".
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import replace
from time import monotonic, sleep

from ..config.endpoint import Serverless
from ..config.settings import Settings
from ..errors import (
    HttpStatusError,
    NoWorkerError,
    RunPodAuthError,
    RunPodError,
    RunPodRateLimitError,
    RunPodWrongKindError,
    TransportError,
)
from ..io.frame import EncodedFrame
from ..net.interruptible import interruptibly
from ..runpod.client import RunPodClient
from . import startup_time
from .base import CHECK_INTERVAL_S, Check, Notify, Route, Timeouts
from .health import Health, ping
from .http_transport import HttpTransport
from .intermediary import Intermediary
from .oversized_requests import too_large

# The edge's limit is 30 MB either way; the margin is for headers and for how it counts.
MAX_REQUEST_BYTES = 28_000_000
# The edge ends a request after 5.5 minutes.
MAX_EXCHANGE_S = 330.0
_WORKER_HEADER = "x-runpod-worker-id"
_WAKING = {502, 503, 524}
_NO_WORKER = ("no workers available", "timed out waiting for worker")
_WRONG_KIND = "not allowed for qb api"
# A worker that is not used for this long may have been stopped (RunPod's own default is 5 s, users set minutes).
_AWAKE_S = 30.0
_POLL_S = 1.0
# A health that is neither is the edge's own answer: a call's reply says which.
_ANSWERS = {Health.READY, Health.UNHEALTHY}


class RunPodEdge(Intermediary):
    """The edge: it prefers the worker that a request names, and it speaks for workers that are not there.

    It ends an exchange of its own accord, and may hold a ping back as long as its one worker computes.
    """

    passes_pings = False

    def __init__(self) -> None:
        self._worker: str | None = None

    def request_headers(self) -> str:
        """Ask for the worker that answered last: it holds this run's tensors."""
        return "" if self._worker is None else f"X-Runpod-Worker-Id: {self._worker}\r\n"

    def replied(self, headers: Mapping[str, str]) -> None:
        """Remember which worker answered."""
        worker = headers.get(_WORKER_HEADER)
        if worker is not None and worker.isascii() and worker.replace("-", "").replace("_", "").isalnum():
            self._worker = worker

    def refusal(self, url: str, status: int, text: str) -> TransportError:
        """See `Intermediary`. A 400 is read before it is believed."""
        said = text.lower()
        if _WRONG_KIND in said:
            return RunPodWrongKindError(
                f"{url} is no load-balancing endpoint: set COMFY_GPU_OFFLOAD_ENDPOINT=queue, or leave it out.",
                status=status,
            )
        if status in _WAKING or (status == 400 and any(words in said for words in _NO_WORKER)):
            self._worker = None
            return NoWorkerError(f"{url} has no worker that answers yet ({status}).", status)
        if "affinity_worker_gone" in said:
            self._worker = None
            return NoWorkerError(f"{url}: the worker that was used before is gone.", status)
        return _refusal(url, status, text) or super().refusal(url, status, text)


def _refusal(url: str, status: int, text: str) -> TransportError | None:
    """Return the error for a status that the edge gives whether or not a worker runs; None for any other."""
    if status in {401, 403}:
        return RunPodAuthError(
            f"RunPod does not accept RUNPOD_API_KEY for {url} ({status}): make a key that may use this endpoint "
            "at https://console.runpod.io/user/settings.",
            status=status,
        )
    if status == 429:
        return RunPodRateLimitError(f"{url} takes no more requests at this moment (429).", status=status)
    if status == 413 or "exceeded max body size" in text.lower():
        return HttpStatusError(f"{url} refuses a request of this size ({status}).", status, retryable=False)
    return None


def from_settings(
    settings: Settings, target: Serverless, api: RunPodClient, notify: Notify
) -> LoadBalancerTransport:
    """Return the transport to the load-balancing endpoint `target`."""
    http = HttpTransport(
        target.address,
        target.key,
        ca_file=settings.ca_file,
        max_frame_bytes=settings.frame_bytes,
        intermediary=RunPodEdge(),
    )
    return LoadBalancerTransport(
        http,
        api,
        answers=lambda: ping(target.address, bearer=target.key, ca_file=settings.ca_file) in _ANSWERS,
        wake_s=settings.wake_timeout_s,
        notify=notify,
    )


class LoadBalancerTransport:
    """Carries frames to a load-balancing endpoint, and waits for its first worker.

    Args:
        http: to the endpoint's own address, with a `RunPodEdge`.
        answers: says whether anybody answers there at once. Asking makes the platform start a worker.
        api: the same endpoint's; says how many workers there are.
        wake_s: seconds to wait for a worker in all.
        notify: called every second or so with what is waited for.
    """

    carries_cancel = True

    def __init__(
        self,
        http: HttpTransport,
        api: RunPodClient,
        *,
        answers: Callable[[], bool],
        wake_s: float,
        notify: Notify,
    ) -> None:
        self._http = http
        self.peer = http.peer
        self._answers = answers
        self._api = api
        self._wake_s = wake_s
        self._notify = notify
        self._answered_at: float | None = None

    def exchange(
        self, route: Route, frame: EncodedFrame, timeouts: Timeouts, check: Check | None = None
    ) -> memoryview:
        """See `Transport`.

        Raises:
            RunPodPayloadTooLargeError: over the edge's limit; found before anything is sent.
            NoWorkerError: no worker was ready in time.
        """
        waking = self._ready_for(route, frame, check)
        timeouts = replace(timeouts, exchange_s=min(timeouts.exchange_s, MAX_EXCHANGE_S))
        while True:
            try:
                reply = self._http.exchange(route, frame, timeouts, check)
            except NoWorkerError:
                self._answered_at = None
                if route == "cancel":
                    raise
                with startup_time.counted():
                    waking.wait(check)
                continue
            self._answered_at = monotonic()
            return reply

    def stream(
        self, route: Route, frame: EncodedFrame, timeouts: Timeouts, check: Check | None = None
    ) -> Generator[memoryview]:
        """See `Transport` and `exchange`. The edge ends a stream after 5.5 minutes; it can be gone on with."""
        waking = self._ready_for(route, frame, check)
        while True:
            try:
                for reply in self._http.stream(route, frame, timeouts, check):
                    self._answered_at = monotonic()
                    yield reply
            except NoWorkerError:
                self._answered_at = None
                with startup_time.counted():
                    waking.wait(check)
                continue
            return

    def _ready_for(self, route: Route, frame: EncodedFrame, check: Check | None) -> _Waking:
        if frame.size_bytes > MAX_REQUEST_BYTES:
            raise too_large(
                route,
                f"This request takes {frame.size_bytes / 1e6:.1f} MB, and a load-balancing endpoint takes "
                f"{MAX_REQUEST_BYTES / 1e6:.0f} MB.",
                "a pod, which has no limit",
                size_bytes=frame.size_bytes,
                limit_bytes=MAX_REQUEST_BYTES,
            )
        waking = _Waking(self._wake_s, self._notify, self._workers)
        if route != "cancel" and not self._is_awake():
            with startup_time.counted():
                self._wake(waking, check)
        return waking

    def close(self) -> None:
        """See `Transport`."""
        self._http.close()
        self._api.close()

    def forked(self) -> None:
        """See `Transport`."""
        self._http.forked()
        self._api.forked()

    def _is_awake(self) -> bool:
        return self._answered_at is not None and monotonic() - self._answered_at < _AWAKE_S

    def _wake(self, waking: _Waking, check: Check | None) -> None:
        """Wait until a worker is ready: a request to an endpoint without one would hang."""
        while not interruptibly(self._answers, check or _nothing, _ignore):
            waking.wait(check)

    def _workers(self) -> str:
        try:
            workers = self._api.health().workers
        except RunPodAuthError:
            raise
        except RunPodError as error:
            return type(error).__name__
        counts = {
            "starting": workers.initializing,
            "ready": workers.up,
            "throttled": workers.throttled,
            "unhealthy": workers.unhealthy,
        }
        return ", ".join(f"{count} {state}" for state, count in counts.items() if count) or "none yet"


def _nothing() -> None:
    """Check nothing."""


def _ignore(_: bool) -> None:
    """Drop an answer that nobody waits for any more."""


class _Waking:
    """One wait for a worker, with its deadline and its lines for the user."""

    def __init__(self, total_s: float, notify: Notify, workers: Callable[[], str]) -> None:
        self._started = monotonic()
        self._total_s = total_s
        self._notify = notify
        self._workers = workers

    def wait(self, check: Check | None) -> None:
        """Wait before the next attempt.

        Raises:
            NoWorkerError: the time is over.
        """
        elapsed = monotonic() - self._started
        state = self._workers()
        if elapsed > self._total_s:
            raise NoWorkerError(
                f"No worker of the endpoint was ready within {self._total_s:.0f} s (workers: {state}). Look at the "
                "endpoint's workers and logs in RunPod's console: its GPU type may be sold out, or its image may "
                "fail to start. COMFY_GPU_OFFLOAD_WAKE_TIMEOUT_S sets how long to wait.",
                503,
            )
        self._notify(f"waiting for the endpoint's worker, {elapsed:.0f} s (workers: {state})")
        until = monotonic() + _POLL_S
        while (left := until - monotonic()) > 0:
            if check is not None:
                check()
            sleep(min(left, CHECK_INTERVAL_S))
