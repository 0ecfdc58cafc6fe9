"""The jobs of a RunPod queue endpoint and the rules for their states. No HTTP.

https://docs.runpod.io/serverless/endpoints/job-states and .../send-requests
"""

from __future__ import annotations

import uuid
from collections import Counter, defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Literal

MIB = 1024**2
FINAL = frozenset({"COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"})
# What the platform says of a job whose worker was lost, or never took it up.
LOST = "job timed out after 1 retries"
_RETRIES = 1

Status = Literal["IN_QUEUE", "IN_PROGRESS", "COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"]
Submit = Literal["run", "runsync"]


def _rate_limits() -> dict[str, int]:
    """Return the requests allowed in 10 s. https://docs.runpod.io/serverless/endpoints/send-requests#rate-limits"""
    return {"run": 1000, "runsync": 2000, "status": 2000, "stream": 2000, "cancel": 100}


@dataclass(frozen=True)
class QueueLimits:
    """Limits of the platform. The defaults are RunPod's; a test sets what it cannot wait for.

    Attributes:
        output_bytes: of a result as the worker posts it; a larger one is lost, and the job complete without it.
        chunk_bytes: of what is yielded at a time; a larger one is refused.
        run_kept_s, runsync_kept_s: how long a result is kept.
        ttl_s, execution_timeout_s: where the job's policy says nothing.
        wait_ms: what `wait` of /runsync may be; default_wait_ms where it is left out.
        edge_s: when the edge before the API gives up on a request.
        rates: requests in `rate_window_s`, by route.
        poll_hold_s: how long a worker's poll is held. Below 2 s, so that the SDK's loop ends soon after SIGTERM.
        stop_after_s: how long a worker must have had a job before it is told to stop it: the SDK forgets a
            signal for a job that it has not begun.
        unheld_s: how long a job stays with a worker that says it has none: it refused the job, or could not
            deliver the result. 30 to 50 s have been seen.
        worker_lost_s: how long a worker with jobs may be silent before it counts as lost; None for ever. A
            handler that blocks the SDK's loop is silent too.
        timed_out: how a job ends whose execution took too long; FAILED has been seen as well.
    """

    run_body_bytes: int = 10 * MIB
    runsync_body_bytes: int = 20 * MIB
    output_bytes: int = 10 * MIB
    chunk_bytes: int = MIB
    run_kept_s: float = 1800.0
    runsync_kept_s: float = 60.0
    ttl_s: float = 86_400.0
    execution_timeout_s: float = 600.0
    wait_ms: tuple[int, int] = (1000, 300_000)
    default_wait_ms: int = 90_000
    edge_s: float = 100.0
    rates: Mapping[str, int] = field(default_factory=_rate_limits)
    rate_window_s: float = 10.0
    poll_hold_s: float = 1.0
    stop_after_s: float = 0.3
    unheld_s: float = 30.0
    worker_lost_s: float | None = None
    timed_out: Literal["TIMED_OUT", "FAILED"] = "TIMED_OUT"


@dataclass(eq=False)
class QueueJob:
    """One job, from its submission on; it stays readable when the endpoint has forgotten it.

    Attributes:
        body_bytes: of the request that submitted it.
        result_bytes: of the result as the worker posted it; 0 before.
        chunks: yielded, and not yet asked for.
        chunk_count: yielded in all.
        worker_ids: who took it, in order.
        unheld_at: since when its worker says that it has no job.
    """

    id: str
    route: Submit
    input: Any
    policy: Mapping[str, Any]
    body_bytes: int
    submitted_at: float
    status: Status = "IN_QUEUE"
    worker_ids: list[str] = field(default_factory=list)
    taken_at: float | None = None
    ended_at: float | None = None
    unheld_at: float | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    result_bytes: int = 0
    chunks: deque[Any] = field(default_factory=deque)
    chunk_count: int = 0
    retries: int = 0
    is_forgotten: bool = False

    @property
    def is_final(self) -> bool:
        """True if it has ended, well or not."""
        return self.status in FINAL

    @property
    def worker_id(self) -> str | None:
        """The worker that has it, or had it last."""
        return self.worker_ids[-1] if self.worker_ids else None

    def reply(self) -> dict[str, Any]:
        """Return what /status says of it."""
        said: dict[str, Any] = {"id": self.id, "status": self.status, **self.fields}
        if self.taken_at is not None:
            said["delayTime"] = round((self.taken_at - self.submitted_at) * 1000)
            said["workerId"] = self.worker_id
            if self.ended_at is not None:
                said["executionTime"] = round((self.ended_at - self.taken_at) * 1000)
        if self.retries or "error" in self.fields:
            said["retries"] = self.retries
        return said


class JobQueue:
    """The jobs of one endpoint. Not thread-safe."""

    def __init__(self, limits: QueueLimits) -> None:
        self.limits = limits
        self.jobs: dict[str, QueueJob] = {}
        self.submitted: list[QueueJob] = []
        self.ended: Counter[str] = Counter()
        self.retried = 0
        self._waiting: deque[QueueJob] = deque()
        self._stops: defaultdict[str, list[QueueJob]] = defaultdict(list)

    def submit(self, route: Submit, body: Mapping[str, Any], body_bytes: int) -> QueueJob:
        """Add a job."""
        prefix = "sync-" if route == "runsync" else ""
        job = QueueJob(
            id=f"{prefix}{uuid.uuid4()}-u1",
            route=route,
            input=body.get("input"),
            policy=body.get("policy") or {},
            body_bytes=body_bytes,
            submitted_at=monotonic(),
        )
        self.jobs[job.id] = job
        self.submitted.append(job)
        self._waiting.append(job)
        return job

    @property
    def has_waiting(self) -> bool:
        """True if a worker that asks gets a job."""
        return bool(self._waiting)

    def in_progress(self, worker_id: str | None = None) -> list[QueueJob]:
        """Return the jobs that a worker has: this one, or any."""
        running = [job for job in self.jobs.values() if job.status == "IN_PROGRESS"]
        return [job for job in running if worker_id in {None, job.worker_id}]

    def in_queue(self) -> int:
        """Return how many jobs no worker has."""
        return len(self._waiting)

    def take(self, worker_id: str, most: int) -> list[QueueJob]:
        """Give up to `most` jobs to that worker, the oldest first."""
        jobs = [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]
        for job in jobs:
            job.status = "IN_PROGRESS"
            job.worker_ids.append(worker_id)
            job.taken_at = monotonic()
        return jobs

    def heard(self, worker_id: str, *, holds: bool) -> None:
        """Note whether that worker says that it has a job."""
        for job in self.in_progress(worker_id):
            job.unheld_at = None if holds else job.unheld_at or monotonic()

    def finish(self, job: QueueJob, result: Mapping[str, Any], size_bytes: int, *, keep: bool = True) -> None:
        """End a job with what its worker posted; without `keep`, the output is lost on the way."""
        job.result_bytes = size_bytes
        job.fields = {name: result[name] for name in ("output", "error") if keep and name in result}
        self._end(job, "FAILED" if "error" in job.fields else "COMPLETED")

    def cancel(self, job: QueueJob) -> None:
        """End a job at its owner's request; one that has ended stays as it is."""
        if not job.is_final:
            self._stop(job)
            self._end(job, "CANCELLED")

    def retry(self, job: QueueJob) -> bool:
        """Put a job that failed back into the queue; return False for any other."""
        if job.status not in {"FAILED", "TIMED_OUT"}:
            return False
        job.retries += 1
        self._requeue(job)
        return True

    def purge(self) -> int:
        """Forget every job that waits; return how many there were."""
        count = len(self._waiting)
        for job in list(self._waiting):
            self._forget(job)
        return count

    def lose(self, job: QueueJob) -> None:
        """Take the job from a worker that is gone: another one gets it, once."""
        if job.retries >= _RETRIES:
            job.fields = {"error": LOST}
            self._end(job, "FAILED")
            return
        job.retries += 1
        self._requeue(job)

    def lose_worker(self, worker_id: str) -> None:
        """Take all jobs from a worker that is gone."""
        for job in self.in_progress(worker_id):
            self.lose(job)

    def due_stops(self, worker_id: str) -> list[QueueJob]:
        """Return the jobs that this worker should be told to stop by now."""
        latest = monotonic() - self.limits.stop_after_s
        return [job for job in self._stops[worker_id] if job.taken_at is not None and job.taken_at <= latest]

    def take_stops(self, worker_id: str) -> list[str]:
        """Return the ids of `due_stops`, each once."""
        due = self.due_stops(worker_id)
        self._stops[worker_id] = [job for job in self._stops[worker_id] if job not in due]
        return [job.id for job in due]

    def sweep(self) -> None:
        """End jobs that took too long, and forget those that were kept long enough."""
        now = monotonic()
        for job in list(self.jobs.values()):
            if job.ended_at is not None:
                kept_s = self.limits.runsync_kept_s if job.route == "runsync" else self.limits.run_kept_s
                if now - job.ended_at > kept_s:
                    self._forget(job)
            elif now - job.submitted_at > _policy_s(job, "ttl", self.limits.ttl_s):
                self._stop(job)
                self._forget(job)
            elif job.taken_at is not None:
                self._sweep_running(job, now, now - job.taken_at)

    def _sweep_running(self, job: QueueJob, now: float, running_s: float) -> None:
        if running_s > _policy_s(job, "executionTimeout", self.limits.execution_timeout_s):
            self._stop(job)
            job.fields = {"error": "executionTimeout exceeded"}
            self._end(job, self.limits.timed_out)
        elif job.unheld_at is not None and now - job.unheld_at > self.limits.unheld_s:
            self.lose(job)

    def _requeue(self, job: QueueJob) -> None:
        self.retried += 1
        job.status, job.fields = "IN_QUEUE", {}
        job.taken_at = job.ended_at = job.unheld_at = None
        job.chunks.clear()
        self._waiting.append(job)

    def _end(self, job: QueueJob, status: Status) -> None:
        self._unqueue(job)
        job.status, job.ended_at = status, monotonic()
        self.ended[status] += 1

    def _stop(self, job: QueueJob) -> None:
        if job.status == "IN_PROGRESS" and job.worker_id is not None:
            self._stops[job.worker_id].append(job)

    def _forget(self, job: QueueJob) -> None:
        self._unqueue(job)
        job.is_forgotten = True
        self.jobs.pop(job.id, None)

    def _unqueue(self, job: QueueJob) -> None:
        if job in self._waiting:
            self._waiting.remove(job)


def _policy_s(job: QueueJob, name: str, otherwise: float) -> float:
    milliseconds = job.policy.get(name)
    return otherwise if milliseconds is None else milliseconds / 1000
