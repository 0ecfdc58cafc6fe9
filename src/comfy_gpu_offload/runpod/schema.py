"""The forms of RunPod's replies, as frozen pydantic models. Fields that RunPod adds are ignored."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

# One segment of a URL's path; RunPod uses less than this allows: `60902e6c-…-e2b-u1`, `sync-…`.
ID_PATTERN = r"^[0-9A-Za-z][0-9A-Za-z_-]{0,127}$"

JobId = Annotated[str, Field(pattern=ID_PATTERN)]
Count = Annotated[int, Field(ge=0)]
Milliseconds = Annotated[float, Field(allow_inf_nan=False)]


class JobStatus(StrEnum):
    """A job's state. https://docs.runpod.io/serverless/endpoints/job-states"""

    IN_QUEUE = "IN_QUEUE"
    IN_PROGRESS = "IN_PROGRESS"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMED_OUT = "TIMED_OUT"

    @property
    def is_final(self) -> bool:
        """True if the job has ended, well or not."""
        return self not in {JobStatus.IN_QUEUE, JobStatus.IN_PROGRESS, JobStatus.RUNNING}


class _Reply(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", populate_by_name=True)


class Job(_Reply):
    """A job that RunPod took."""

    id: JobId
    status: JobStatus


class JobResult(Job):
    """A job and its outcome, once it has ended. `job_outcome.output_of` reads that.

    Attributes:
        output: the handler's return value. Not shown, since it may hold pictures or prompts.
        error: a text or JSON value, where the job failed. Not shown either.
        delay_ms: its wait for a worker.
        execution_ms: the worker's time.
    """

    output: Any = Field(default=None, repr=False)
    error: Any = Field(default=None, repr=False)
    delay_ms: Milliseconds | None = Field(default=None, alias="delayTime")
    execution_ms: Milliseconds | None = Field(default=None, alias="executionTime")
    worker_id: str | None = Field(default=None, alias="workerId")
    retries: Count | None = None


class StreamChunk(_Reply):
    """One value that a handler yielded."""

    output: Any = Field(repr=False)


class StreamReply(_Reply):
    """The values that a handler has yielded since the stream was last asked for."""

    status: JobStatus
    stream: list[StreamChunk] = Field(default_factory=list, repr=False)


class JobCounts(_Reply):
    """An endpoint's jobs."""

    completed: Count = 0
    failed: Count = 0
    in_progress: Count = Field(default=0, alias="inProgress")
    in_queue: Count = Field(default=0, alias="inQueue")
    retried: Count = 0


class WorkerCounts(_Reply):
    """An endpoint's workers. `ready` ones can take a job at once; they are counted as `idle` or `running` too."""

    idle: Count = 0
    initializing: Count = 0
    ready: Count = 0
    running: Count = 0
    throttled: Count = 0
    unhealthy: Count = 0

    @property
    def up(self) -> int:
        """The number of workers that have started."""
        return max(self.ready, self.idle + self.running)


class EndpointHealth(_Reply):
    """The state of an endpoint."""

    jobs: JobCounts
    workers: WorkerCounts
