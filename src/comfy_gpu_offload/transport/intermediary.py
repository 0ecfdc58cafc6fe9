"""Intermediaries between a client and a worker's server: their limits, and the meaning of their replies."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

from ..errors import HttpStatusError, TransportError
from .base import Route

# Statuses that may pass: too slow or too much at this moment, and whatever fails in between. A worker of ours
# answers with a frame even where it fails, so a 5xx without one is a proxy's, or one of a replica that died.
_PASSING = frozenset({408, 425, 429, *range(500, 600)})


class Intermediary:
    """Nothing, or a proxy that says nothing of itself. An intermediary with rules of its own is a subclass.

    Attributes:
        passes_pings: whether `/ping` is answered at once as long as the way to the worker is open.
        starts_workers: whether a request or an upgrade may wait for a worker to start.
        exchange_s: seconds after which an HTTP exchange is to end, before the intermediary ends it.
        request_bytes: the largest frame that a request by HTTP may hold.
        open_s: seconds for which an upgrade may stay unanswered, if that is longer than for any connection.
        connection_s: seconds after which a WebSocket is to be replaced, before the intermediary ends it.
    """

    passes_pings = True
    starts_workers = False
    exchange_s = inf
    request_bytes = inf
    open_s = 0.0
    connection_s = inf

    def request_headers(self) -> Mapping[str, str]:
        """Return header fields to add to the next request or upgrade."""
        return {}

    def replied(self, headers: Mapping[str, str]) -> None:
        """Take note of a reply's headers. Called with every reply, and with the answer to an upgrade."""

    def too_large(self, route: Route, size_bytes: int) -> TransportError:
        """Return the error for a frame of more than `request_bytes`."""
        return HttpStatusError(f"A request of {size_bytes} bytes does not pass.", 413, retryable=False)

    def refusal(self, url: str, status: int, text: str) -> TransportError:
        """Return the error that a reply without a frame stands for; `text` is the beginning of its body."""
        first_line = next((line.strip() for line in text.splitlines() if line.strip()), "")
        hint = {
            401: "The token is wrong or missing: set COMFY_GPU_OFFLOAD_TOKEN.",
            403: "The token does not allow this.",
            404: "There is no worker under this address.",
            413: "A proxy in between refuses requests of this size.",
        }.get(status, "It came from a proxy or another program in between.")
        return HttpStatusError(
            f"{url} answered {status} without a frame. {hint} It says: {first_line[:200]!r}",
            status,
            retryable=status in _PASSING,
        )


def header_lines(headers: Mapping[str, str]) -> str:
    """Return header fields as they stand in a request."""
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items())
