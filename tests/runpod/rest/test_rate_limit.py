from __future__ import annotations

import pytest
from tests.support.runpod_api import FakeClock

from comfy_gpu_offload.errors import RunPodRateLimitError
from comfy_gpu_offload.runpod.rest.rate_limit import Quota, seconds_until_allowed


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ('"minute";r=0;t=12, "hour";r=2800;t=1812, "day";r=49500;t=45012', 12),
        ('"minute";r=0;t=12, "hour";r=0;t=1812', 1812),
        ('"minute";r=1;t=12', 0),
        ('"minute"; r=0; t=7', 7),
        ("minute;t=9;r=0", 9),
        ('"minute";r=0', 0),
        ("", 0),
        (None, 0),
        ("r=0;t=12", 0),
        ('"minute";r=zero;t=12', 0),
        ('"minute";r=-1;t=12', 0),
        ('"minute";r=0;t=99999999999999999999', 0),
        ("\x00" * 5000, 0),
        ('"minute";' + "r=0;" * 5000, 0),
    ],
)
def test_the_header_says_for_how_long_no_request_is_allowed(header: str | None, seconds: float) -> None:
    assert seconds_until_allowed(header) == seconds


def test_a_wait_lasts_until_the_window_begins_anew_and_is_not_repeated() -> None:
    fake = FakeClock()
    quota = Quota(fake.clock)
    quota.wait(90, None)
    quota.note('"minute";r=0;t=12')
    quota.note('"minute";r=3;t=10')
    quota.wait(90, None)
    assert fake.slept == pytest.approx(12)
    quota.wait(90, None)
    assert fake.slept == pytest.approx(12)


def test_a_window_that_lasts_too_long_is_refused_with_its_time() -> None:
    quota = Quota(FakeClock().clock)
    quota.note('"hour";r=0;t=1812')
    with pytest.raises(RunPodRateLimitError, match="1812 s") as caught:
        quota.wait(90, None)
    assert caught.value.retry_after_s == 1812
