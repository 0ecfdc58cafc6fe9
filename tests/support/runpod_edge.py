"""The edge of a RunPod load-balancing endpoint on this machine: a reverse proxy before real workers of ours.

It streams either way, has the endpoint's key, limits and affinity, and says what the edge says where there is no
worker. What no document settles can be set. WebSockets are not passed on.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Literal

import aiohttp
from aiohttp import hdrs, web
from multidict import CIMultiDict

from .aiohttp_server import AiohttpServer
from .edge_workers import EdgeWorker, EdgeWorkers
from .faults import Fault, Faults, drop_request
from .runpod_gateway import ENDPOINT, KEY, UNAUTHORIZED, WRONG_KIND
from .runpod_worker_routes import error_reply

WORKER_HEADER = "X-Runpod-Worker-Id"
NO_WORKERS = "no workers available"
TIMED_OUT = "timed out waiting for worker"
_PIECE_BYTES = 65536
_STATES = ("idle", "initializing", "ready", "running", "throttled", "unhealthy")
# RFC 9110, 7.6.1; aiohttp sets its own.
_HOP_BY_HOP = {
    "connection",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
}


@dataclass(frozen=True)
class EdgeLimits:
    """Limits of the edge. The defaults are RunPod's as far as it says; a test sets what it cannot wait for.

    Attributes:
        request_bytes, reply_bytes: of a body; too_large_status is what more is answered with.
        hold_s: how long a request waits for a worker; no_worker is what it is told then.
        strict_hold_s: the same for one that asks for one worker and no other.
        processing_s: how long a worker may take until its reply begins.
        ping_s: how often the workers are asked how they are.
    """

    request_bytes: int = 30_000_000
    reply_bytes: int = 30_000_000
    too_large_status: int = 400
    hold_s: float = 120.0
    no_worker: str = NO_WORKERS
    strict_hold_s: float = 300.0
    processing_s: float = 330.0
    ping_s: float = 0.05


@dataclass
class EdgeRequest:
    """A request that arrived. `status` is None where the connection ended before a reply began."""

    method: str
    path: str
    authorization: str | None
    affinity: str | None
    at: float
    status: int | None = None
    worker_id: str | None = None
    request_bytes: int = 0
    reply_bytes: int = 0


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
        self.faults = Faults()
        self.other_workers: Mapping[str, int] = {}
        self.requests: list[EdgeRequest] = []
        self.health_polls = 0
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

    @property
    def workers(self) -> list[EdgeWorker]:
        """The workers behind it."""
        return list(self._workers.by_id.values())

    def add_worker(self, url: str, worker_id: str | None = None) -> EdgeWorker:
        """Add a worker; it gets requests when its `/ping` says 200."""
        return self._on_loop(lambda: self._workers.add(url, worker_id))

    def remove_worker(self, worker_id: str) -> None:
        """Take that worker away."""
        self._on_loop(lambda: self._workers.by_id.pop(worker_id))

    def fall_asleep(self, wake_s: float = 0.0) -> None:
        """Stop all workers; they run again `wake_s` after the next request."""

        def sleep() -> None:
            self._workers.wake_s = wake_s
            self._workers.fall_asleep()

        self._on_loop(sleep)

    def wait_until_ready(self, count: int = 1, timeout_s: float = 30.0) -> bool:
        """Return whether so many workers are ready in time, without a request to them."""
        return self.wait_for(lambda: len(self._workers.ready()) >= count, timeout_s)

    def count(self, path: str) -> int:
        """Return how many requests came to `path`."""
        return sum(request.path == path for request in list(self.requests))

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
            seen.request_bytes = await _drain(request)
            return fault.answer()
        refusal = self._refusal(request)
        if refusal is not None:
            seen.request_bytes = await _drain(request)
            return refusal
        worker = await self._worker_for(seen.affinity)
        if isinstance(worker, web.Response):
            seen.request_bytes = await _drain(request)
            return worker
        seen.worker_id = worker.id
        worker.running += 1
        worker.served += 1
        try:
            return await _Forwarding(self, request, worker, seen, fault).run()
        finally:
            worker.running -= 1

    def _refusal(self, request: web.Request) -> web.Response | None:
        """Return the refusal that does not depend on workers, if there is one."""
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


class _BrokenOffError(Exception):
    """The connection was closed on demand."""


class _TooLargeError(Exception):
    """The request turned out larger than allowed."""


class _Forwarding:
    """One request on its way to a worker, and the reply on its way back."""

    def __init__(
        self, edge: LoadBalancerEdge, request: web.Request, worker: EdgeWorker, seen: EdgeRequest, fault: Fault
    ) -> None:
        self._edge = edge
        self._request = request
        self._worker = worker
        self._seen = seen
        self._fault = fault

    async def run(self) -> web.StreamResponse:
        """Forward the request; return the reply that reached the client."""
        has_body = self._request.can_read_body
        try:
            async with asyncio.timeout(self._edge.limits.processing_s) as begins:
                async with self._edge.session.request(
                    self._request.method,
                    self._worker.url + self._request.path_qs,
                    headers=_end_to_end(self._request.headers),
                    data=self._upload() if has_body else None,
                    allow_redirects=False,
                    skip_auto_headers=(hdrs.ACCEPT, hdrs.ACCEPT_ENCODING, hdrs.CONTENT_TYPE, hdrs.USER_AGENT),
                ) as upstream:
                    begins.reschedule(None)
                    return await self._pass_back(upstream)
        except TimeoutError:
            return web.Response(status=524, text="<html><title>524: A timeout occurred</title></html>")
        except _BrokenOffError:
            return self._cut(abort=True)
        except (aiohttp.ClientError, ConnectionError) as error:
            return self._failed(error)

    def _failed(self, error: Exception) -> web.StreamResponse:
        causes = (error, error.__cause__, error.__context__)
        if any(isinstance(cause, _BrokenOffError) for cause in causes):
            return self._cut(abort=True)
        if any(isinstance(cause, _TooLargeError) for cause in causes):
            return self._edge.too_large("body", self._edge.limits.request_bytes)
        if self._seen.status is not None:  # the reply has begun: it can only be cut
            return self._cut(abort=True)
        return web.Response(status=502, text="<html><title>502 Bad Gateway</title></html>")

    async def _upload(self) -> AsyncIterator[bytes]:
        """Yield the request's body as it comes."""
        cut = self._fault.after_bytes or 0 if self._fault.drop == "request" else None
        async for piece in self._request.content.iter_chunked(_PIECE_BYTES):
            if cut is not None and self._seen.request_bytes + len(piece) > cut:
                yield piece[: cut - self._seen.request_bytes]
                raise _BrokenOffError
            self._seen.request_bytes += len(piece)
            if self._seen.request_bytes > self._edge.limits.request_bytes:
                raise _TooLargeError
            yield piece

    async def _pass_back(self, upstream: aiohttp.ClientResponse) -> web.StreamResponse:
        limit = self._edge.limits.reply_bytes
        if (upstream.content_length or 0) > limit:
            return self._edge.too_large("response", limit)
        await asyncio.sleep(self._fault.reply_delay_s)
        cut = self._fault.after_bytes if self._fault.drop == "reply" else limit
        if cut is None:
            await upstream.read()
            return self._cut(abort=False)
        reply = web.StreamResponse(status=upstream.status, headers=_end_to_end(upstream.headers))
        reply.headers[WORKER_HEADER] = self._worker.id
        if upstream.content_length is None and upstream.status not in {204, 304}:
            reply.enable_chunked_encoding()
        await reply.prepare(self._request)
        self._seen.status = upstream.status
        async for piece in upstream.content.iter_chunked(_PIECE_BYTES):
            self._seen.reply_bytes += len(piece)
            if self._seen.reply_bytes > cut:
                await reply.write(piece[: len(piece) - (self._seen.reply_bytes - cut)])
                return self._cut(abort=False)
            await reply.write(piece)
        await reply.write_eof()
        return reply

    def _cut(self, *, abort: bool) -> web.StreamResponse:
        """End the client's connection without more of a reply."""
        transport = self._request.transport
        if transport is not None:
            transport.abort() if abort else transport.close()
        return web.Response(status=499)


def _end_to_end(headers: Mapping[str, str]) -> CIMultiDict[str]:
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in _HOP_BY_HOP)


async def _drain(request: web.Request) -> int:
    """Read the body and drop it, so that a client that still sends sees the reply; return its size in bytes."""
    size = 0
    async for piece in request.content.iter_chunked(_PIECE_BYTES):
        size += len(piece)
    return size
