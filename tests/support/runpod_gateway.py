"""RunPod's queue API on this machine: its public routes, and those that its SDK's worker loop asks.

A gateway for tests, with RunPod's limits, its losses and its faults. What no document settles is as strict as it
could be: a `wait` out of bounds is refused, a cancelled job's late result dropped. `webhook` and `s3Config` are
not acted on.
"""

from __future__ import annotations

import asyncio
import json
import math
import ssl
from collections import Counter, defaultdict, deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any, Literal

from aiohttp import web

from .aiohttp_server import AiohttpServer
from .faults import Fault, Faults, drop_reply, drop_request
from .runpod_queue import MIB, JobQueue, QueueJob, QueueLimits, Submit
from .runpod_worker_routes import Answer, SeenWorker, WorkerRoutes, error_reply

KEY = "rpa_GATEWAY0123456789"
ENDPOINT = "ep123abc456def"
UNAUTHORIZED = {"status": 401, "title": "Unauthorized", "detail": "The API key is missing or not valid."}
WRONG_KIND = {"error": "not allowed for QB API"}

_TICK_S = 0.05


@dataclass(frozen=True)
class Seen:
    """One request that arrived. `status` is None where the connection ended before the reply."""

    route: str
    job_id: str | None
    worker_id: str | None
    body_bytes: int
    status: int | None
    at: float


class RunPodGateway(AiohttpServer):
    """`with RunPodGateway() as gateway:` one endpoint at `gateway.base_url`, until the block ends.

    Args:
        key: the only one accepted.
        endpoint: the only one there is.
        kind: of a load-balancing endpoint only /health answers.
        limits: may be replaced at any time: ``gateway.limits = replace(gateway.limits, …)``.

    Attributes:
        faults: what will go wrong, by route: run, runsync, status, stream, cancel, retry, purge-queue, health,
            and on the workers' side job-take, job-take-batch, job-done, job-stream, job-stop, ping.
        other_workers: counts for /health besides the workers that ask.
        seen: every request, in order.
    """

    def __init__(
        self,
        key: str = KEY,
        endpoint: str = ENDPOINT,
        *,
        kind: Literal["queue", "load-balancer"] = "queue",
        limits: QueueLimits | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(tls)
        self.key = key
        self.endpoint = endpoint
        self.kind = kind
        self.faults = Faults()
        self.other_workers: Mapping[str, int] = {}
        self.seen: list[Seen] = []
        self._queue = JobQueue(limits or QueueLimits())
        self._worker_routes = WorkerRoutes(self._queue, self._until, self._notify)
        self._asked: defaultdict[str, deque[float]] = defaultdict(deque)
        self._ticking: asyncio.Task[None] | None = None
        self._add_routes()

    @property
    def base_url(self) -> str:
        """The address to use in place of https://api.runpod.ai/v2."""
        return f"{self.url}/v2"

    @property
    def limits(self) -> QueueLimits:
        """The limits in force."""
        return self._queue.limits

    @limits.setter
    def limits(self, limits: QueueLimits) -> None:
        self._queue.limits = limits

    @property
    def workers(self) -> dict[str, SeenWorker]:
        """The workers that have asked for jobs, by id."""
        return self._worker_routes.workers

    def lose_outputs(self, count: int = 1) -> None:
        """Have so many results to come lose their output on the way."""
        self._worker_routes.lose_outputs = count

    @property
    def submitted(self) -> list[QueueJob]:
        """Every job that was accepted, in order; also those that the endpoint has forgotten."""
        return list(self._queue.submitted)

    def job(self, job_id: str) -> QueueJob:
        """Return an accepted job."""
        return next(job for job in self._queue.submitted if job.id == job_id)

    def count(self, route: str, job_id: str | None = None) -> int:
        """Return how many requests came to `route`: about that job, or all."""
        return sum(seen.route == route and job_id in {None, seen.job_id} for seen in list(self.seen))

    def wait_for_status(self, job_id: str, status: str, timeout_s: float = 30.0) -> bool:
        """Return whether the job comes to that status in time, without a request for it."""
        return self.wait_for(lambda: self.job(job_id).status == status, timeout_s)

    def wait_for_worker(self, worker_id: str, timeout_s: float = 60.0) -> bool:
        """Return whether that worker asks for jobs in time, and for jobs to stop."""

        def asks() -> bool:
            worker = self.workers.get(worker_id)
            if worker is None:
                return False
            return worker.asked["job-stop"] > 0 and worker.asked["job-take"] + worker.asked["job-take-batch"] > 0

        return self.wait_for(asks, timeout_s)

    def lose_worker(self, worker_id: str) -> None:
        """Count that worker as dead: its jobs go to another, once, and then fail."""
        self._on_loop(lambda: self._queue.lose_worker(worker_id))

    def cancel(self, job_id: str) -> None:
        """Cancel a job, as somebody at RunPod's console would."""
        self._on_loop(lambda: self._queue.cancel(self.job(job_id)))

    def worker_environment(self, worker_id: str) -> dict[str, str]:
        """Return what RunPod sets in a worker's container, but for RUNPOD_AI_API_KEY: see `runpod_worker`."""
        base = f"{self.base_url}/{self.endpoint}"
        return {
            "RUNPOD_ENDPOINT_ID": self.endpoint,
            "RUNPOD_POD_ID": worker_id,
            "RUNPOD_POD_HOSTNAME": worker_id,
            "RUNPOD_WEBHOOK_GET_JOB": f"{base}/job-take/$ID?gpu=none",
            "RUNPOD_WEBHOOK_POST_OUTPUT": f"{base}/job-done/$RUNPOD_POD_ID/$ID?gpu=none",
            "RUNPOD_WEBHOOK_POST_STREAM": f"{base}/job-stream/$RUNPOD_POD_ID/$ID?gpu=none",
            "RUNPOD_WEBHOOK_PING": f"{base}/ping/$RUNPOD_POD_ID",
        }

    async def _begun(self) -> None:
        self._ticking = asyncio.create_task(self._tick())

    async def _ending(self) -> None:
        if self._ticking is not None:
            self._ticking.cancel()
            with suppress(asyncio.CancelledError):
                await self._ticking

    async def _tick(self) -> None:
        while True:
            self._queue.sweep()
            self._worker_routes.sweep()
            self._notify()
            await asyncio.sleep(_TICK_S)

    def _add_routes(self) -> None:
        public: list[tuple[str, str, str, Answer]] = [
            ("POST", "run", "", self._run),
            ("POST", "runsync", "", self._run_sync),
            ("GET", "status", "/{job}", self._status),
            ("GET", "stream", "/{job}", self._stream),
            ("POST", "cancel", "/{job}", self._cancel),
            ("POST", "retry", "/{job}", self._retry),
            ("POST", "purge-queue", "", self._purge),
            ("GET", "health", "", self._health),
        ]
        for method, route, rest, answer in public:
            self._add(method, route, rest, self._admitted(route, answer))
        for method, route, rest, answer in self._worker_routes.routes():
            self._add(method, route, rest, self._here(answer))

    def _add(self, method: str, route: str, rest: str, answer: Answer) -> None:
        async def handle(request: web.Request) -> web.StreamResponse:
            fault, status = self.faults.take(route) or Fault(), None
            try:
                reply = await self._answer(request, answer, fault)
                status = None if fault.drop else reply.status
                return reply
            finally:
                self._record(request, route, status)

        self._app.router.add_route(method, f"/v2/{{endpoint}}/{route}{rest}", handle)

    async def _answer(self, request: web.Request, answer: Answer, fault: Fault) -> web.StreamResponse:
        if fault.drop == "request":
            return await drop_request(request, fault.after_bytes)
        await request.read()
        await asyncio.sleep(fault.delay_s)
        if fault.status is not None:
            return fault.answer()
        reply = await answer(request)
        await asyncio.sleep(fault.reply_delay_s)
        if fault.drop == "reply":
            assert isinstance(reply, web.Response)
            return await drop_reply(request, reply, fault.after_bytes)
        return reply

    def _record(self, request: web.Request, route: str, status: int | None) -> None:
        self.seen.append(
            Seen(
                route=route,
                job_id=request.match_info.get("job"),
                worker_id=request.match_info.get("worker"),
                body_bytes=request.content_length or 0,
                status=status,
                at=monotonic(),
            )
        )
        self._notify()

    def _admitted(self, route: str, answer: Answer) -> Answer:
        """Return `answer` for those who have the key, the right endpoint and kind, and do not ask too often."""

        async def handle(request: web.Request) -> web.StreamResponse:
            if request.headers.get("Authorization") != f"Bearer {self.key}":
                return web.json_response(UNAUTHORIZED, status=401)
            if request.match_info["endpoint"] != self.endpoint:
                return error_reply(404, "endpoint not found")
            if self.kind != "queue" and route != "health":
                return web.json_response(WRONG_KIND, status=400)
            wait_s = self._rate_wait_s(route)
            if wait_s > 0:
                return error_reply(429, "too many requests", {"Retry-After": str(math.ceil(wait_s))})
            return await answer(request)

        return handle

    def _here(self, answer: Answer) -> Answer:
        """Return `answer` for the workers of this endpoint."""

        async def handle(request: web.Request) -> web.StreamResponse:
            if request.match_info["endpoint"] != self.endpoint:
                return error_reply(404, "endpoint not found")
            return await answer(request)

        return handle

    def _rate_wait_s(self, route: str) -> float:
        """Return how many seconds until `route` may be asked again; 0 for now."""
        most = self.limits.rates.get(route)
        asked, now = self._asked[route], monotonic()
        while asked and now - asked[0] > self.limits.rate_window_s:
            asked.popleft()
        if most is not None and len(asked) >= most:
            return self.limits.rate_window_s - (now - asked[0])
        asked.append(now)
        return 0.0

    async def _run(self, request: web.Request) -> web.Response:
        job = await self._submitted(request, "run", self.limits.run_body_bytes)
        if isinstance(job, web.Response):
            return job
        return web.json_response({"id": job.id, "status": "IN_QUEUE"})

    async def _run_sync(self, request: web.Request) -> web.Response:
        wait_ms = self._wait_ms(request.query.get("wait"))
        if wait_ms is None:
            return error_reply(400, "bad request: wait: not between {} and {}".format(*self.limits.wait_ms))
        job = await self._submitted(request, "runsync", self.limits.runsync_body_bytes)
        if isinstance(job, web.Response):
            return job
        wait_s = wait_ms / 1000
        ended = await self._until(lambda: job.is_final or job.is_forgotten, min(wait_s, self.limits.edge_s))
        if not ended and wait_s > self.limits.edge_s:
            return web.Response(status=524, text="<html><title>524: A timeout occurred</title></html>")
        return _said(job, job.reply())

    def _wait_ms(self, text: str | None) -> int | None:
        """Return how long /runsync waits, in milliseconds; None if that is out of bounds."""
        if text is None:
            return self.limits.default_wait_ms
        shortest, longest = self.limits.wait_ms
        return int(text) if text.isascii() and text.isdigit() and shortest <= int(text) <= longest else None

    async def _submitted(self, request: web.Request, route: Submit, limit: int) -> QueueJob | web.Response:
        raw = await request.read()
        if len(raw) > limit:
            return error_reply(400, f"bad request: body: exceeded max body size of {limit / MIB:g}MiB")
        try:
            body = json.loads(raw)
        except ValueError:
            return error_reply(400, "bad request: body: not JSON")
        if not isinstance(body, dict) or not isinstance(body.get("policy", {}), dict):
            return error_reply(400, "bad request: body: not a job")
        job = self._queue.submit(route, body, len(raw))
        self._notify()
        return job

    def _about(self, request: web.Request) -> QueueJob | None:
        self._queue.sweep()
        return self._queue.jobs.get(request.match_info["job"])

    async def _status(self, request: web.Request) -> web.Response:
        job = self._about(request)
        return _no_job() if job is None else _said(job, job.reply())

    async def _stream(self, request: web.Request) -> web.Response:
        job = self._about(request)
        if job is None:
            return _no_job()
        chunks = [job.chunks.popleft() for _ in range(len(job.chunks))]
        return _said(job, {"status": job.status, "stream": [{"output": chunk} for chunk in chunks]})

    async def _cancel(self, request: web.Request) -> web.Response:
        job = self._about(request)
        if job is None:
            return _no_job()
        self._queue.cancel(job)
        return _said(job, {"id": job.id, "status": job.status})

    async def _retry(self, request: web.Request) -> web.Response:
        job = self._about(request)
        if job is None:
            return _no_job()
        if not self._queue.retry(job):
            return error_reply(400, f"job is {job.status}: only FAILED and TIMED_OUT ones can be retried")
        return _said(job, {"id": job.id, "status": job.status})

    async def _purge(self, _: web.Request) -> web.Response:
        return web.json_response({"removed": self._queue.purge(), "status": "completed"})

    async def _health(self, _: web.Request) -> web.Response:
        self._queue.sweep()
        running = {job.worker_id for job in self._queue.in_progress()}
        idle = {worker.id for worker in self.workers.values() if worker.is_there} - running
        counts = Counter(self.other_workers)
        counts.update(idle=len(idle), running=len(running), ready=len(idle | running))
        states = ("idle", "initializing", "ready", "running", "throttled", "unhealthy")
        ended = self._queue.ended
        jobs = {
            "completed": ended["COMPLETED"],
            "failed": ended["FAILED"] + ended["TIMED_OUT"],
            "inProgress": len(self._queue.in_progress()),
            "inQueue": self._queue.in_queue(),
            "retried": self._queue.retried,
        }
        return web.json_response({"jobs": jobs, "workers": {state: counts[state] for state in states}})


def _said(job: QueueJob, reply: Mapping[str, Any]) -> web.Response:
    return _no_job() if job.is_forgotten else web.json_response(reply)


def _no_job() -> web.Response:
    return error_reply(404, "job not found")
