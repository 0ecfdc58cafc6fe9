from __future__ import annotations

import pytest

from comfy_gpu_offload.client.retry import Patience, RetryPolicy


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

    patience = Patience(RetryPolicy(total_s=2.0, first_s=0.01, longest_s=0.02), None, clock)
    waits = 0
    while patience.wait():
        waits += 1
    assert 2 < waits < 60
    assert now[0] - 1000.0 < 2.5


def test_a_check_ends_the_wait() -> None:
    def check() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Patience(RetryPolicy(first_s=5.0, longest_s=5.0), check).wait()
