"""The sender of an HTTP request, as the queue sees it: gone once its connection is closed."""

from __future__ import annotations

from collections.abc import Mapping

from ..waiting import Waiting
from .connections import Connection

# The request header of a client that accepts progress which says what a run waits for.
_HEADER = "takes-waiting"


class HttpCaller:
    """A caller over HTTP (`Caller`), which hears nothing before its reply."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def is_gone(self) -> bool:
        """Return whether the connection is closed."""
        return self._connection.has_hung_up()

    def tell(self, _: Waiting) -> bool:
        """Return False: the reply that the worker is busy says it. See `Caller`."""
        return False


def takes_waiting(headers: Mapping[str, str]) -> bool:
    """Return whether a client accepts progress that says what a run waits for."""
    return headers.get(_HEADER) == "1"
