"""Intermediaries between a client and a worker's HTTP server, and the meaning of their replies."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import HttpStatusError, TransportError

# Statuses that may pass: too slow or too much at this moment, and whatever fails in between. A worker of ours
# answers with a frame even where it fails, so a 5xx without one is a proxy's, or one of a replica that died.
_PASSING = frozenset({408, 425, 429, *range(500, 600)})


class Intermediary:
    """Nothing, or a proxy that says nothing of itself. An intermediary with rules of its own is a subclass.

    Attributes:
        passes_pings: whether `/ping` is answered at once as long as the way to the worker is open.
    """

    passes_pings = True

    def request_headers(self) -> str:
        """Return header lines to add to the next request."""
        return ""

    def replied(self, headers: Mapping[str, str]) -> None:
        """Take note of a reply's headers. Called with every reply."""

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
