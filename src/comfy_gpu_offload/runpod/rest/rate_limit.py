"""RunPod's limit of requests, as the `RateLimit` header of each reply tells it.

Source: the API's schema, ``"minute";r=0;t=12, "hour";r=2800;t=1812``: `r` requests are left in a window, which
begins anew after `t` seconds. Form: https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/
"""

from __future__ import annotations

import re
import threading

from ...errors import RunPodRateLimitError
from ...net.clock import Check, Clock

_WINDOW = re.compile(r'"?[\w-]{1,32}"?((?:\s*;\s*[a-z]{1,8}=\d{1,6}(?!\d)){1,8})')
_LONGEST_HEADER = 1024


def seconds_until_allowed(header: str | None) -> float:
    """Return for how many seconds no request is allowed: until the last exhausted window ends."""
    longest = 0.0
    for window in _WINDOW.finditer((header or "")[:_LONGEST_HEADER]):
        numbers = {name: int(number) for name, number in re.findall(r"([a-z]+)=(\d+)", window[1])}
        if numbers.get("r") == 0:
            longest = max(longest, float(numbers.get("t", 0)))
    return longest


class Quota:
    """The time until which RunPod allows no request. Thread-safe."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._closed_until = 0.0

    def note(self, header: str | None) -> None:
        """Take in the `RateLimit` header of a reply."""
        closed_s = seconds_until_allowed(header)
        if closed_s:
            with self._lock:
                self._closed_until = max(self._closed_until, self._clock.monotonic() + closed_s)

    def wait(self, longest_s: float, check: Check | None) -> None:
        """Wait until a request is allowed; return at once if one is.

        Raises:
            RunPodRateLimitError: that takes more than `longest_s`.
            Whatever `check` raises.
        """
        with self._lock:
            left = self._closed_until - self._clock.monotonic()
        if left > longest_s:
            raise RunPodRateLimitError(
                f"RunPod's limit of requests is used up. Try again in {left:.0f} s.", retry_after_s=left
            )
        if left > 0:
            self._clock.wait(left, check)
