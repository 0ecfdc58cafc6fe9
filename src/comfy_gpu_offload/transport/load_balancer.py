"""The transport to a RunPod load-balancing endpoint: to a worker that may still have to be started.

The edge has no queue: without a worker it hangs, or answers 400, 502, 503 or 524. That is no fault but a start.
docs.runpod.io, "Load balancing endpoints". It passes WebSockets, does not count an open one as load, and may end it
at any time: with a worker that is stopped, at a restart, after 5.5 minutes. The session then sends again.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, nullcontext
from time import monotonic, sleep

from ..config.endpoint import Serverless
from ..config.settings import Settings
from ..errors import NoWorkerError, RunPodAuthError, RunPodError
from ..io.frame import EncodedFrame
from ..net.interruptible import interruptibly
from ..runpod.client import RunPodClient
from . import startup_time
from .base import CHECK_INTERVAL_S, Carrier, Check, Notify, Route, Timeouts
from .connector import connector_to
from .direct_transport import DirectTransport
from .health import Health, health_of
from .http_transport import HttpTransport
from .load_pings import LoadPings
from .runpod_intermediaries import RunPodEdge
from .websocket_transport import WebSocketTransport

# A worker that is not used for this long may have been stopped (RunPod's own default is 5 s, users set minutes).
_AWAKE_S = 30.0
_POLL_S = 1.0
# A health that is neither is the edge's own answer: a call's reply says which.
_ANSWERS = {Health.READY, Health.UNHEALTHY}


def from_settings(
    settings: Settings, target: Serverless, api: RunPodClient, notify: Notify
) -> LoadBalancerTransport:
    """Return the transport to the load-balancing endpoint `target`."""
    edge = RunPodEdge()
    connector = connector_to(target.address, settings.ca_file)
    websocket = WebSocketTransport(
        target.address,
        connector,
        target.key,
        max_frame_bytes=settings.frame_bytes,
        intermediary=edge,
        notify=notify,
    )
    http = HttpTransport(
        target.address,
        target.key,
        max_frame_bytes=settings.frame_bytes,
        intermediary=edge,
        connector=connector,
    )
    return LoadBalancerTransport(
        DirectTransport(websocket, http, edge),
        api,
        ping=lambda: health_of(connector, bearer=target.key, headers=edge.request_headers()),
        wake_s=settings.wake_timeout_s,
        notify=notify,
    )


class LoadBalancerTransport:
    """Carries frames to a load-balancing endpoint, and waits for its first worker.

    Args:
        direct: to the endpoint's own address, with a `RunPodEdge`.
        api: the same endpoint's; says how many workers there are.
        ping: asks for `/ping` there. Asking makes the platform start a worker, or keep one that runs.
        wake_s: seconds to wait for a worker in all.
        notify: called every second or so with what is waited for.
    """

    carries_cancel = True

    def __init__(
        self,
        direct: DirectTransport,
        api: RunPodClient,
        *,
        ping: Callable[[], Health],
        wake_s: float,
        notify: Notify,
    ) -> None:
        self._direct = direct
        self.peer = direct.peer
        self._ping = ping
        self._load = LoadPings(ping)
        self._api = api
        self._wake_s = wake_s
        self._notify = notify
        self._answered_at: float | None = None

    def exchange(
        self, route: Route, frame: EncodedFrame, timeouts: Timeouts, check: Check | None = None
    ) -> memoryview:
        """See `Transport`.

        Raises:
            RunPodPayloadTooLargeError: over the edge's limit for HTTP exchanges, where it refuses WebSockets; found
                before anything is sent.
            NoWorkerError: no worker was ready in time.
        """
        waking = self._awoken(route, check)
        while True:
            try:
                with self._as_load(route):
                    reply = self._direct.exchange(route, frame, timeouts, check)
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
        waking = self._awoken(route, check)
        while True:
            try:
                with self._as_load(route):
                    for reply in self._direct.stream(route, frame, timeouts, check):
                        self._answered_at = monotonic()
                        yield reply
            except NoWorkerError:
                self._answered_at = None
                with startup_time.counted():
                    waking.wait(check)
                continue
            return

    def _awoken(self, route: Route, check: Check | None) -> _Waking:
        """Wait until a worker is ready, except to cancel: without one there is nothing to end."""
        waking = _Waking(self._wake_s, self._notify, self._workers)
        if route != "cancel" and not self._is_awake():
            with startup_time.counted():
                self._wake(waking, check)
        return waking

    def _as_load(self, route: Route) -> AbstractContextManager[None]:
        """Have the edge count the block as load, which a call over a WebSocket is not by itself."""
        return nullcontext() if route == "cancel" or self._direct.refusal else self._load.during_call()

    def close(self) -> None:
        """See `Transport`."""
        self._load.close()
        self._direct.close()
        self._api.close()

    def forked(self) -> None:
        """See `Transport`."""
        self._load.forked()
        self._direct.forked()
        self._api.forked()

    @property
    def carrier(self) -> Carrier:
        """See `Transport`."""
        return self._direct.carrier

    def _is_awake(self) -> bool:
        if self._direct.is_open:
            return True
        return self._answered_at is not None and monotonic() - self._answered_at < _AWAKE_S

    def _wake(self, waking: _Waking, check: Check | None) -> None:
        """Wait until a worker is ready: a request to an endpoint without one would hang."""
        while interruptibly(self._ping, check or _nothing, _ignore) not in _ANSWERS:
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


def _ignore(_: Health) -> None:
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
