"""Options: the client's time limits and retries, and a job's execution policy."""

from __future__ import annotations

from dataclasses import dataclass, field

from .retry import RetryPolicy

# RunPod refuses a request body over 10 MiB on /run and 20 MiB on /runsync, and the refusal can race into a 502.
# Megabytes of 10**6, to keep clear of it. https://docs.runpod.io/serverless/endpoints/send-requests
RUN_BODY_BYTES = 9_500_000
RUNSYNC_BODY_BYTES = 19_000_000
# `wait` may be 1 s to 300 s, but the edge before the API gives up after about 100 s.
RUNSYNC_WAIT_S = (1.0, 90.0)


@dataclass(frozen=True)
class RunPodOptions:
    """Times in seconds. A route's time is without the connection, and begins with the request's last byte.

    Attributes:
        runsync_beyond_wait_s: seconds that a reply to /runsync may take beyond its `wait`.
        retry: of one request.
        poll_retry: of each request while a job is waited for. Patient, because a job under way is billed.
        cancel_retry: one retry: whoever cancels has no time.
        poll_first_s, poll_longest_s, poll_growth: between two polls of a job.
        reply_bytes: the largest reply accepted.
    """

    connect_timeout_s: float = 10.0
    run_timeout_s: float = 60.0
    runsync_beyond_wait_s: float = 10.0
    status_timeout_s: float = 15.0
    cancel_timeout_s: float = 5.0
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    poll_retry: RetryPolicy = field(
        default_factory=lambda: RetryPolicy(attempts=20, connect_attempts=20, total_s=120.0)
    )
    cancel_retry: RetryPolicy = field(
        default_factory=lambda: RetryPolicy(attempts=2, connect_attempts=2, total_s=20.0)
    )
    poll_first_s: float = 0.25
    poll_longest_s: float = 2.0
    poll_growth: float = 1.5
    reply_bytes: int = 64 * 1024**2


@dataclass(frozen=True)
class JobPolicy:
    """Limits that a job asks RunPod for. None leaves the endpoint's own setting.

    Attributes:
        execution_timeout_s: seconds that a worker may take.
        ttl_s: seconds that the job may exist, in the queue and on a worker; then it is deleted, even if it runs.
        low_priority: whether it may wait rather than start a worker.
    """

    execution_timeout_s: float | None = None
    ttl_s: float | None = None
    low_priority: bool | None = None

    def as_json(self) -> dict[str, int | bool]:
        """Return it as RunPod wants it: in milliseconds, without what is not set."""
        fields: dict[str, int | bool] = {}
        if self.execution_timeout_s is not None:
            fields["executionTimeout"] = round(self.execution_timeout_s * 1000)
        if self.ttl_s is not None:
            fields["ttl"] = round(self.ttl_s * 1000)
        if self.low_priority is not None:
            fields["lowPriority"] = self.low_priority
        return fields
