"""The routes that the worker loop of RunPod's SDK asks: its modules rp_job.py, rp_http.py and rp_ping.py."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from aiohttp import web

from .runpod_queue import JobQueue, QueueJob

# A worker that asked this long ago is still there: between two of its polls lie up to 1 s, and a held one's length.
_SEEN_S = 2.5

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
WorkerAnswer = Callable[[web.Request, "SeenWorker"], Awaitable[web.StreamResponse]]
Until = Callable[[Callable[[], bool], float], Awaitable[bool]]


@dataclass
class SeenWorker:
    """A worker that has asked for jobs.

    Attributes:
        asked: how often, by route.
        batches: how many jobs it asked for, each time.
        finished: the jobs whose results it posted, in order.
        ignored: those whose results came too late to count.
    """

    id: str
    last_at: float = 0.0
    open_polls: int = 0
    asked: Counter[str] = field(default_factory=Counter)
    batches: list[int] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)

    @property
    def is_there(self) -> bool:
        """True if it still asks."""
        return self.open_polls > 0 or monotonic() - self.last_at < _SEEN_S

    def has(self, job: QueueJob) -> bool:
        """Return whether the job is this worker's to report on."""
        return job.status == "IN_PROGRESS" and job.worker_id == self.id


class WorkerRoutes:
    """Hands a queue's jobs to the workers that ask, and takes what they post. Nothing here asks for a key.

    Args:
        until: waits, that many seconds at most, for something to become true.
        notify: told whenever a worker has asked.
    """

    def __init__(self, queue: JobQueue, until: Until, notify: Callable[[], None]) -> None:
        self.workers: dict[str, SeenWorker] = {}
        self.lose_outputs = 0
        self._queue = queue
        self._until = until
        self._notify = notify

    def routes(self) -> list[tuple[str, str, str, Answer]]:
        """Return each route: method, name, the rest of the path, and what answers."""
        return [
            ("GET", "job-take", "/{worker}", self._seen("job-take", self._job_take)),
            ("GET", "job-take-batch", "/{worker}", self._seen("job-take-batch", self._job_take)),
            ("GET", "job-stop", "/{worker}", self._seen("job-stop", self._job_stop)),
            ("POST", "job-done", "/{worker}/{job}", self._seen("job-done", self._job_done)),
            ("POST", "job-stream", "/{worker}/{job}", self._seen("job-stream", self._job_stream)),
            ("GET", "ping", "/{worker}", self._seen("ping", self._ping)),
        ]

    def sweep(self) -> None:
        """Take the jobs from workers that have been silent for too long."""
        lost_s = self._queue.limits.worker_lost_s
        for worker in self.workers.values():
            if lost_s is not None and not worker.open_polls and monotonic() - worker.last_at > lost_s:
                self._queue.lose_worker(worker.id)

    def _seen(self, route: str, answer: WorkerAnswer) -> Answer:
        """Return `answer`, with the worker that asks noted."""

        async def handle(request: web.Request) -> web.StreamResponse:
            worker_id = request.match_info["worker"]
            worker = self.workers.setdefault(worker_id, SeenWorker(worker_id))
            worker.asked[route] += 1
            worker.open_polls += 1
            try:
                self._notify()
                return await answer(request, worker)
            finally:
                worker.open_polls -= 1
                worker.last_at = monotonic()

        return handle

    async def _job_take(self, request: web.Request, worker: SeenWorker) -> web.Response:
        size = request.query.get("batch_size")
        self._queue.heard(worker.id, holds=request.query.get("job_in_progress") == "1")
        worker.batches.append(int(size or 1))
        await self._until(lambda: self._queue.has_waiting, self._queue.limits.poll_hold_s)
        taken = [_for_worker(job) for job in self._queue.take(worker.id, worker.batches[-1])]
        if not taken:
            return web.Response(status=204)
        return web.json_response(taken[0] if size is None else taken)

    async def _job_stop(self, _: web.Request, worker: SeenWorker) -> web.Response:
        await self._until(lambda: bool(self._queue.due_stops(worker.id)), self._queue.limits.poll_hold_s)
        ids = self._queue.take_stops(worker.id)
        return web.json_response({"jobsToStop": ids}) if ids else web.Response(status=204)

    async def _job_done(self, request: web.Request, worker: SeenWorker) -> web.Response:
        raw = await request.read()
        job = self._queue.jobs.get(request.match_info["job"])
        result = json.loads(raw)  # the SDK says that it posts a form, and posts JSON
        if job is None or not worker.has(job):
            worker.ignored.append(request.match_info["job"])
            return web.json_response({})
        if result.get("status") == "IN_PROGRESS":
            job.fields = {"output": result.get("output")}
            return web.json_response({})
        fits = len(raw) <= self._queue.limits.output_bytes
        is_lost = self.lose_outputs > 0
        self.lose_outputs -= is_lost
        self._queue.finish(job, result, len(raw), keep=fits and not is_lost)
        worker.finished.append(job.id)
        return web.json_response({}) if fits else error_reply(400, "bad request: body: exceeded max body size")

    async def _job_stream(self, request: web.Request, worker: SeenWorker) -> web.Response:
        raw = await request.read()
        job = self._queue.jobs.get(request.match_info["job"])
        if len(raw) > self._queue.limits.chunk_bytes:
            return error_reply(400, "bad request: body: exceeded max body size")
        if job is not None and worker.has(job):
            job.chunks.append(json.loads(raw)["output"])
            job.chunk_count += 1
        return web.json_response({})

    async def _ping(self, *_: object) -> web.Response:
        return web.Response(status=200)


def _for_worker(job: QueueJob) -> dict[str, Any]:
    """Return a job as its worker gets it. An empty input is left out, so the SDK refuses it."""
    return {"id": job.id, **({"input": job.input} if job.input else {})}


def error_reply(status: int, text: str, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return an error as RunPod's API words it."""
    return web.json_response({"error": text}, status=status, headers=headers)
