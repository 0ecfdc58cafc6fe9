from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from tests.support.runpod_api import WALL_S, FakeClock

from comfy_gpu_offload.errors import RunPodNetworkError, RunPodRateLimitError, RunPodRequestError, RunPodServerError
from comfy_gpu_offload.runpod.retry import Retries, RetryPolicy, seconds_of

LOST = RunPodNetworkError("lost", connected=True)
REFUSED = RunPodNetworkError("refused", connected=False)


def test_waits_are_drawn_from_zero_to_a_ceiling_that_doubles() -> None:
    policy = RetryPolicy(first_s=0.5, longest_s=4.0)
    for failures, ceiling in [(1, 0.5), (2, 1.0), (3, 2.0), (4, 4.0), (5, 4.0), (5000, 4.0)]:
        drawn = [policy.delay_s(failures) for _ in range(400)]
        assert 0.0 <= min(drawn) < 0.2 * ceiling
        assert 0.8 * ceiling < max(drawn) <= ceiling


@pytest.mark.parametrize(("error", "waits"), [(LOST, 5), (RunPodServerError("5xx"), 5), (REFUSED, 2)])
def test_attempts_are_bounded_and_those_without_a_connection_more_tightly(
    error: RunPodNetworkError, waits: int
) -> None:
    retries = Retries(RetryPolicy(attempts=6, connect_attempts=3), FakeClock().clock)
    assert [retries.wait_after(error) for _ in range(waits + 1)] == [True] * waits + [False]


def test_the_time_is_bounded() -> None:
    fake = FakeClock()
    retries = Retries(RetryPolicy(attempts=10_000, total_s=20.0, first_s=3.0), fake.clock)
    while retries.wait_after(LOST):
        pass
    assert 5.0 < fake.slept <= 20.0


def test_a_deadline_bounds_it_further() -> None:
    fake = FakeClock()
    retries = Retries(RetryPolicy(attempts=10_000, total_s=20.0, first_s=0.2), fake.clock, deadline=1002.0)
    while retries.wait_after(LOST):
        pass
    assert fake.slept <= 2.0


def test_what_cannot_get_better_is_not_waited_for() -> None:
    fake = FakeClock()
    assert not Retries(RetryPolicy(), fake.clock).wait_after(RunPodRequestError("wrong", status=400))
    assert fake.slept == 0.0


def test_what_the_server_asks_for_is_waited() -> None:
    fake = FakeClock()
    assert Retries(RetryPolicy(), fake.clock).wait_after(RunPodRateLimitError("429", retry_after_s=17.0))
    assert fake.slept == pytest.approx(17.0)


def test_a_server_that_asks_for_more_time_than_there_is_ends_it_at_once() -> None:
    fake = FakeClock()
    retries = Retries(RetryPolicy(total_s=60.0), fake.clock)
    assert not retries.wait_after(RunPodRateLimitError("429", retry_after_s=61.0))
    assert fake.slept == 0.0


def test_a_check_is_asked_all_along_and_ends_the_wait() -> None:
    fake = FakeClock()
    asked: list[float] = []

    def check() -> None:
        asked.append(fake.now)
        if fake.slept > 2.0:
            raise KeyboardInterrupt

    retries = Retries(RetryPolicy(), fake.clock, check)
    with pytest.raises(KeyboardInterrupt):
        retries.wait_after(RunPodRateLimitError("429", retry_after_s=30.0))
    assert max(fake.slices) <= 0.1
    assert len(asked) >= 20


def test_retry_after_is_read_in_both_its_forms() -> None:
    date = format_datetime(datetime.fromtimestamp(WALL_S + 12, UTC), usegmt=True)
    assert seconds_of("7", WALL_S) == 7.0
    assert seconds_of(" 0 ", WALL_S) == 0.0
    assert seconds_of(date, WALL_S) == 12.0
    assert seconds_of(date, WALL_S + 100) == 0.0


@pytest.mark.parametrize("text", [None, "", "soon", "-3", "1.5", "٣", "Wed, 99 Foo 2026 00:00:00 GMT", "\x00"])
def test_a_retry_after_that_says_nothing_is_none(text: str | None) -> None:
    assert seconds_of(text, WALL_S) is None
