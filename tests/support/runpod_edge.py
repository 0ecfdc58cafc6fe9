"""The edge of a RunPod load-balancing endpoint on this machine: a reverse proxy before real workers of ours.

It streams either way, passes WebSockets on, has the endpoint's key, limits and affinity, and says what the edge
says where there is no worker. What no document settles can be set.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Literal

import aiohttp
from aiohttp import hdrs, web

from .aiohttp_server import AiohttpServer
from .edge_forwarding import Forwarding, drain
from .edge_workers import WORKER_HEADER, EdgeRequest, EdgeWorker, EdgeWorkers
from .faults import Fault, Faults, drop_request
from .runpod_gateway import ENDPOINT, KEY, UNAUTHORIZED, WRONG_KIND
from .runpod_worker_routes import error_reply

NO_WORKERS = "no workers available"
TIMED_OUT = "timed out waiting for worker"
_STATES = ("idle", "initializing", "ready", "running", "throttled", "unhealthy")


@dataclass(frozen=True)
class EdgeLimits:
    """Limits of the edge. The defaults are RunPod's as far as it says; a test sets what it cannot wait for.

    Attributes:
        request_bytes, reply_bytes: of a body; too_large_status is what more is answered with.
        hold_s: how long a request waits for a worker; no_worker is what it is told then.
        strict_hold_s: the same for one that asks for one worker and no other.
        processing_s: how long a worker may take until its reply begins.
        message_bytes: of a message in a WebSocket, either way; a larger one ends the connection with 1009.
        connection_s: how long a WebSocket may last; it ends without a word.
        idle_s: how long a worker runs on without a request. An open WebSocket is none. None for ever.
        ping_s: how often the workers are asked how they are.
    """

    request_bytes: int = 30_000_000
    reply_bytes: int = 30_000_000
    too_large_status: int = 400
    hold_s: float = 120.0
    no_worker: str = NO_WORKERS
    strict_hold_s: float = 300.0
    processing_s: float = 330.0
    message_bytes: int = 30_000_000
    connection_s: float = 330.0
    idle_s: float | None = None
    ping_s: float = 0.05


class LoadBalancerEdge(AiohttpServer):
    """`with LoadBalancerEdge(worker.url) as edge:` stands before that worker at `edge.url` until the block ends.

    Args:
        worker: its address; None for none yet.
        key: the only one accepted; passed on to the worker as it came.
        endpoint: whose health `edge.base_url` tells.
        kind: of a queue endpoint, nothing is passed on.
        wake_s: how long after the first request the workers run; None for always.

    Attributes:
        limits: may be replaced at any time.
        passes_websockets: if not, an upgrade reaches the worker as an ordinary request.
        faults: what will go wrong, by path, e.g. ``"/v1/forward"``; ``"*"`` for any but those on the API's side,
            ``"health"`` for /health.
        other_workers: counts for /health besides the workers behind the edge.
        requests: every request but those on the API's side, in order.
    """

    def __init__(
        self,
        worker: str | None = None,
        *,
        key: str = KEY,
        endpoint: str = ENDPOINT,
        kind: Literal["queue", "load-balancer"] = "load-balancer",
        limits: EdgeLimits | None = None,
        wake_s: float | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(tls)
        self.key = key
        self.endpoint = endpoint
        self.kind = kind
        self.limits = limits or EdgeLimits()
        self.passes_websockets = True
        self.faults = Faults()
        self.other_workers: Mapping[str, int] = {}
        self.requests: list[EdgeRequest] = []
        self.health_polls = 0
        self._refuses_until = 0.0
        self._refusal_status = 502
        self._workers = EdgeWorkers(wake_s)
        if worker is not None:
            self._workers.add(worker, None)
        self._session: aiohttp.ClientSession | None = None
        self._pinging: asyncio.Task[None] | None = None
        self._app.router.add_route("*", "/v2/{endpoint}/{rest:.*}", self._api)
        self._app.router.add_route("*", "/{rest:.*}", self._edge)

    @property
    def base_url(self) -> str:
        """The address to use in place of https://api.runpod.ai/v2."""
        return f"{self.url}/v2"

    def client_settings(self) -> dict[str, str]:
        """Return the settings of a client of this endpoint."""
        return {
            "url": self.url,
            "endpoint": self.kind,
            "runpod_api_key": self.key,
            "runpod_endpoint_id": self.endpoint,
            "runpod_base_url": self.base_url,
        }

    @property
    def workers(self) -> list[EdgeWorker]:
        """The workers behind it."""
        return list(self._workers.by_id.values())

    def add_worker(self, url: str, worker_id: str | None = None) -> EdgeWorker:
        """Add a worker; it gets requests when its `/ping` says 200."""
        return self._on_loop(lambda: self._workers.add(url, worker_id))

    def remove_worker(self, worker_id: str) -> None:
        """Take that worker away, and end its WebSockets."""
        self._on_loop(lambda: self._workers.remove(worker_id))

    def fall_asleep(self, wake_s: float = 0.0) -> None:
        """Stop all workers; they run again `wake_s` after the next request."""

        def sleep() -> None:
            self._workers.wake_s = wake_s
            self._workers.fall_asleep()

        self._on_loop(sleep)

    def start_again(self, down_s: float, status: int = 502) -> None:
        """Drop every connection, and answer everything with `status` for so long."""

        def restart() -> None:
            self._refuses_until, self._refusal_status = monotonic() + down_s, status
            self._drop_connections()

        self._on_loop(restart)

    def cut_sockets(self) -> None:
        """End every WebSocket without a word."""
        self._on_loop(lambda: [worker.cut() for worker in self._workers.by_id.values()])

    @property
    def stopped(self) -> list[str]:
        """The ids of workers that were stopped because they had no requests, in order."""
        return list(self._workers.stopped)

    @property
    def sockets(self) -> int:
        """The number of WebSockets that are open."""
        return self._on_loop(lambda: sum(len(worker.sockets) for worker in self._workers.by_id.values()))

    def wait_until_ready(self, count: int = 1, timeout_s: float = 30.0) -> bool:
        """Return whether so many workers are ready in time, without a request to them."""
        return self.wait_for(lambda: len(self._workers.ready()) >= count, timeout_s)

    def count(self, path: str) -> int:
        """Return how many requests came to `path`."""
        return sum(request.path == path for request in list(self.requests))

    def changed(self) -> None:
        """Wake whoever waits for a change. For the loop's thread."""
        self._notify()

    async def _begun(self) -> None:
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        self._session = aiohttp.ClientSession(
            connector=connector, auto_decompress=False, timeout=aiohttp.ClientTimeout(total=None)
        )
        self._pinging = asyncio.create_task(self._ping())

    async def _ending(self) -> None:
        if self._pinging is not None:
            self._pinging.cancel()
            with suppress(asyncio.CancelledError):
                await self._pinging
        if self._session is not None:
            await self._session.close()

    async def _ping(self) -> None:
        assert self._session is not None
        while True:
            await self._workers.ping(self._session)
            if self.limits.idle_s is not None:
                self._workers.stop_idle(self.limits.idle_s)
            self._notify()
            await asyncio.sleep(self.limits.ping_s)

    def _is_refused(self, request: web.Request) -> bool:
        return request.headers.get(hdrs.AUTHORIZATION) != f"Bearer {self.key}"

    async def _api(self, request: web.Request) -> web.StreamResponse:
        """Answer as RunPod's API does for such an endpoint: with its health, and nothing else."""
        fault = self.faults.take("health")
        if fault is not None and fault.status is not None:
            return fault.answer()
        if self._is_refused(request):
            return web.json_response(UNAUTHORIZED, status=401)
        if request.match_info["endpoint"] != self.endpoint:
            return error_reply(404, "endpoint not found")
        if request.match_info["rest"] != "health":
            return web.json_response(WRONG_KIND, status=400)
        self.health_polls += 1
        counts = self._workers.counts()
        counts.update(self.other_workers)
        jobs = dict.fromkeys(("completed", "failed", "inProgress", "inQueue", "retried"), 0)
        return web.json_response({"jobs": jobs, "workers": {state: counts[state] for state in _STATES}})

    async def _edge(self, request: web.Request) -> web.StreamResponse:
        seen = EdgeRequest(
            method=request.method,
            path=request.path,
            authorization=request.headers.get(hdrs.AUTHORIZATION),
            affinity=request.headers.get(WORKER_HEADER),
            at=monotonic(),
        )
        self.requests.append(seen)
        self._notify()
        fault = self.faults.take(request.path) or self.faults.take("*") or Fault()
        try:
            reply = await self._answer(request, seen, fault)
            if seen.status is None and fault.drop is None:
                seen.status = reply.status
            return reply
        finally:
            self._notify()

    async def _answer(self, request: web.Request, seen: EdgeRequest, fault: Fault) -> web.StreamResponse:
        await asyncio.sleep(fault.delay_s)
        if fault.drop == "request" and fault.after_bytes is None:
            return await drop_request(request, None)
        if fault.status is not None:
            seen.request_bytes = await drain(request)
            return fault.answer()
        refusal = self._refusal(request)
        if refusal is not None:
            seen.request_bytes = await drain(request)
            return refusal
        worker = await self._worker_for(seen.affinity)
        if isinstance(worker, web.Response):
            seen.request_bytes = await drain(request)
            return worker
        seen.worker_id = worker.id
        worker.begin(seen)
        try:
            return await Forwarding(self, request, worker, seen, fault).run()
        finally:
            worker.end(seen)

    def _refusal(self, request: web.Request) -> web.Response | None:
        """Return the refusal that does not depend on workers, if there is one."""
        if monotonic() < self._refuses_until:
            return web.Response(status=self._refusal_status, text="<html><title>Bad Gateway</title></html>")
        if self._is_refused(request):
            return web.json_response(UNAUTHORIZED, status=401)
        if self.kind == "queue":
            return web.json_response(WRONG_KIND, status=400)
        if (request.content_length or 0) > self.limits.request_bytes:
            return self.too_large("body", self.limits.request_bytes)
        return None

    def too_large(self, what: str, limit: int) -> web.Response:
        """Return the reply to a body over the limit."""
        text = f"bad request: {what}: exceeded max body size of {limit / 1e6:g}MB"
        return error_reply(self.limits.too_large_status, text)

    async def _worker_for(self, affinity: str | None) -> EdgeWorker | web.Response:
        """Return the worker for a request with this header, or the answer if there is none."""
        self._workers.asked()
        mode, _, preferred = (affinity or "").rpartition(" ")
        strict = mode in {"strict", "strict-resume"}
        hold_s = self.limits.strict_hold_s if strict else self.limits.hold_s
        deadline = monotonic() + hold_s
        while True:
            if strict and self._workers.is_gone(preferred):
                return error_reply(404, "affinity_worker_gone")
            worker = self._workers.chosen(preferred or None, strict=strict)
            if worker is not None:
                return worker
            if monotonic() >= deadline or self._is_closing:
                return error_reply(400, "worker_timeout" if strict else self.limits.no_worker)
            await asyncio.sleep(min(0.02, max(0.0, deadline - monotonic())))

    @property
    def session(self) -> aiohttp.ClientSession:
        """The HTTP client for requests to workers."""
        assert self._session is not None
        return self._session
