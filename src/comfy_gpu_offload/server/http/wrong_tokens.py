"""Wrong tokens: counted by the host that they come from, logged, and answered with a delay."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict

logger = logging.getLogger(__name__)

_MOST_PEERS = 1024
_FIRST_WAIT_S = 0.25
_LONGEST_WAIT_S = 2.0


class WrongTokens:
    """The counts of wrong tokens by host; those not heard of for longest are forgotten first. Thread-safe."""

    def __init__(self) -> None:
        self._counts: OrderedDict[str, int] = OrderedDict()
        self._lock = threading.Lock()

    def note(self, peer: str, *, is_missing: bool) -> float:
        """Count a wrong or missing token from `peer`; return the seconds by which its answer is delayed."""
        with self._lock:
            count = self._counts.pop(peer, 0) + 1
            self._counts[peer] = count
            if len(self._counts) > _MOST_PEERS:
                self._counts.popitem(last=False)
        if count <= 3 or _is_power_of_ten(count):
            what = "a request without a token" if is_missing else "a wrong token"
            logger.warning("refused %s from %s (%d from there so far)", what, peer or "an unknown address", count)
        return min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2.0 ** min(count - 1, 10))


def _is_power_of_ten(count: int) -> bool:
    return str(count).strip("0") == "1"
