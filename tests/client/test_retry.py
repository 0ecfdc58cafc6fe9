from __future__ import annotations

from collections.abc import Callable

import pytest

from comfy_gpu_offload.client.retry import (
    Again,
    Judge,
    Retries,
    RetryPolicy,
    after_any,
    after_call,
    when_awaited,
    when_connecting,
)
from comfy_gpu_offload.errors import (
    ConnectError,
    ConnectionLostError,
    ExchangeTimeoutError,
    FrameError,
    HttpStatusError,
    NoWorkerError,
    OffloadError,
    SilentConnectionError,
    TlsError,
    TooLargeError,
    UnauthorizedError,
    UnknownModelError,
    WorkerFaultError,
    WrongReplyError,
)
from comfy_gpu_offload.protocol.envelope import ProtocolSkewError

QUICK = RetryPolicy(total_s=2.0, first_s=0.001, longest_s=0.002)
LOST = ConnectionLostError("lost")


def test_waits_grow_and_are_bounded() -> None:
    policy = RetryPolicy(first_s=0.1, longest_s=3.0)
    for attempt in range(40):
        ceiling = min(3.0, 0.1 * 2.0**attempt)
        assert ceiling / 2 <= policy.delay_s(attempt) <= ceiling


def test_the_time_begins_with_the_first_failure_and_ends() -> None:
    now = [1000.0]

    def clock() -> float:
        now[0] += 0.05
        return now[0]

    retries = Retries(RetryPolicy(total_s=2.0, first_s=0.01, longest_s=0.02), after_any, None, clock=clock)
    attempts: list[None] = []

    def attempt() -> None:
        attempts.append(None)
        raise LOST

    with pytest.raises(ConnectionLostError):
        retries.run(attempt)
    assert 3 < len(attempts) < 60
    assert now[0] - 1000.0 < 2.5


def test_a_check_ends_the_wait() -> None:
    def check() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Retries(RetryPolicy(first_s=5.0, longest_s=5.0), after_any, check).after(LOST)


def failing(*errors: OffloadError) -> Callable[[], int]:
    """Return an attempt that raises these one after another, and then gives how many there were."""
    left = list(errors)

    def attempt() -> int:
        if left:
            raise left.pop(0)
        return len(errors)

    return attempt


BUSY = WorkerFaultError("busy", code="busy", retryable=True)
PASSING = HttpStatusError("bad gateway", 502, retryable=True)
REFUSED = HttpStatusError("not found", 404, retryable=False)
TOKEN = UnauthorizedError("wrong token", code="unauthorized", unread=True)
CASES: list[tuple[OffloadError, Again, Again, Again, Again]] = [
    (LOST, Again.YES, Again.YES, Again.YES, Again.YES),
    (SilentConnectionError("silent"), Again.YES, Again.YES, Again.YES, Again.YES),
    (WrongReplyError("another's"), Again.YES, Again.YES, Again.YES, Again.YES),
    (PASSING, Again.YES, Again.YES, Again.YES, Again.YES),
    (BUSY, Again.YES, Again.YES, Again.YES, Again.YES),
    (ConnectError("refused"), Again.YES, Again.YES, Again.NO, Again.YES),
    (ConnectError("no such name", unknown_host=True), Again.YES, Again.YES, Again.NO, Again.NO),
    (NoWorkerError("none"), Again.YES, Again.YES, Again.NO, Again.NO),
    (ExchangeTimeoutError("too long"), Again.YES, Again.NO, Again.YES, Again.YES),
    (REFUSED, *[Again.ONCE] * 4),
    (TOKEN, *[Again.ONCE] * 4),
    (FrameError("bad_magic", "no frame"), *[Again.ONCE] * 4),
    (WorkerFaultError("truncated", code="bad_frame", unread=True), *[Again.ONCE] * 4),
    (TooLargeError("too large a frame", code="too_large", unread=True), *[Again.ONCE] * 4),
    (TooLargeError("too large a reply, and computed", code="too_large"), *[Again.NO] * 4),
    (ProtocolSkewError("unsupported_protocol", "99"), *[Again.NO] * 4),
    (TlsError("certificate"), *[Again.NO] * 4),
    (UnknownModelError("no such model", code="unknown_model"), *[Again.NO] * 4),
    (WorkerFaultError("the model raised", code="model_failed"), *[Again.NO] * 4),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: type(case[0]).__name__)
def test_what_each_kind_of_attempt_is_made_again_after(
    case: tuple[OffloadError, Again, Again, Again, Again],
) -> None:
    error, *verdicts = case
    judges: list[Judge] = [after_any, after_call, when_connecting, when_awaited]
    assert [judge(error) for judge in judges] == verdicts


def test_what_damage_can_look_like_is_believed_when_it_is_said_twice() -> None:
    assert Retries(QUICK, after_call, None).run(failing(REFUSED)) == 1
    with pytest.raises(HttpStatusError):
        Retries(QUICK, after_call, None).run(failing(REFUSED, REFUSED))
    with pytest.raises(UnauthorizedError):
        Retries(QUICK, after_call, None).run(failing(REFUSED, LOST, TOKEN))


def test_who_came_further_has_all_the_time_and_a_doubt_again() -> None:
    retries = Retries(QUICK, after_call, None)
    retries.after(REFUSED)
    retries.begin_anew()
    retries.after(REFUSED)
    with pytest.raises(HttpStatusError):
        retries.after(REFUSED)


def test_each_wait_is_told_of_and_the_end_is_not() -> None:
    told: list[OffloadError] = []
    with pytest.raises(TlsError):
        Retries(QUICK, after_call, None, told.append).run(failing(LOST, TlsError("no")))
    assert told == [LOST]
