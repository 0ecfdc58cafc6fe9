"""Time limits and retries of requests to the REST API."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..retry import RetryPolicy


@dataclass(frozen=True)
class RestOptions:
    """Times in seconds. Each of a request is without the connection, and is for silence, not for the whole reply.

    Attributes:
        retry: of a read, and of a create that RunPod cannot have begun. Outlasts a minute's limit of requests.
        delete_retry: patient, because what is not deleted bills.
        look_after_s: the pauses before each look for what a create with a lost reply may have made.
        creates: how often a create is sent in all, if nothing can be found of the earlier ones.
        settle_s: how long `close` waits for creates whose caller has gone, to delete what they make.
        log_silence_s: after which a log's connection counts as lost.
    """

    connect_timeout_s: float = 10.0
    read_timeout_s: float = 20.0
    create_timeout_s: float = 60.0
    delete_timeout_s: float = 30.0
    retry: RetryPolicy = field(default_factory=lambda: RetryPolicy(total_s=90.0))
    delete_retry: RetryPolicy = field(
        default_factory=lambda: RetryPolicy(attempts=20, connect_attempts=20, total_s=180.0)
    )
    look_after_s: tuple[float, ...] = (1.0, 2.0, 4.0)
    creates: int = 3
    settle_s: float = 60.0
    log_silence_s: float = 60.0
    reply_bytes: int = 16 * 1024**2
