"""The limits of a WebSocket connection at the worker."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class WebSocketLimits:
    """Times in seconds, and numbers.

    Attributes:
        idle_s: after which a connection on which nothing is asked is closed.
        progress_s: the longest wait for the next bytes of a request, for the client to take bytes of a reply, and
            for a sign of life while an exchange is open.
        linger_s: for which the remaining bytes of a client are dropped after a close, so that it reads the reason.
            After a reply that may still be under way it is `progress_s`.
        exchanges: under way at a time.
    """

    idle_s: float = 650.0
    progress_s: float = 60.0
    linger_s: float = 5.0
    exchanges: int = 32
