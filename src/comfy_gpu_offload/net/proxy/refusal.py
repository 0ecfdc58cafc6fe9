"""A proxy's refusals, in the terms that HTTP and SOCKS share."""

from __future__ import annotations

from enum import Enum, auto


class Reason(Enum):
    """The cause of a refusal."""

    LOGIN = auto()  # a user and a password are wanted, or others
    LOGIN_KIND = auto()  # the proxy wants to know who asks in a way that is not spoken here
    UNREACHABLE = auto()  # the proxy would let us through, but nobody answers it there
    FORBIDDEN = auto()


class TunnelRefusedError(Exception):
    """A proxy's answer, by which no connection came about.

    Attributes:
        answer: the proxy's own status or word for it, safe to show.
    """

    def __init__(self, reason: Reason, answer: str) -> None:
        super().__init__(answer)
        self.reason = reason
        self.answer = answer


class NotAProxyError(Exception):
    """The bytes that came are no answer of a proxy of this kind. The text says why, and is safe to show."""
