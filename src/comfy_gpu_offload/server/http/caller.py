"""The sender of an HTTP request, as the queue sees it: gone once its connection is closed."""

from __future__ import annotations

from collections.abc import Mapping
from time import monotonic
from urllib.parse import quote

from ..waiting import Waiting
from .connections import Connection

# The request header of a client that accepts progress which says what a run waits for.
_HEADER = "takes-waiting"
# How often a caller is told for how long it has waited, while nothing else changes.
_TELL_EVERY_S = 1.0


class HttpCaller:
    """A caller over HTTP (`Caller`), which is told by interim responses where those are sent."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._told: Waiting | None = None
        self._told_at = 0.0

    def is_gone(self) -> bool:
        """Return whether the connection is closed."""
        return self._connection.has_hung_up()

    def tell(self, waiting: Waiting) -> bool:
        """Send an interim response; return False, since a proxy may drop those without a sign."""
        now = monotonic()
        is_news = not waiting.is_like(self._told) or now - self._told_at >= _TELL_EVERY_S
        if is_news and self._connection.say(f"Waiting: {quote(str(waiting)[:256])}\r\n"):
            self._told, self._told_at = waiting, now
        return False


def takes_waiting(headers: Mapping[str, str]) -> bool:
    """Return whether a client accepts progress that says what a run waits for."""
    return headers.get(_HEADER) == "1"
