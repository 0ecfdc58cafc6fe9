"""One exchange on a WebSocket: its request as it arrives, and its sender as the queue sees it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from time import monotonic

from ...io.frame import EncodedFrame, FrameLimits
from ...io.frame_reader import FrameReader
from ...net.websocket.link import Link, LinkClosedError
from ...net.websocket.pieces import Kind, sealed
from ..waiting import Caller, Waiting

# How often a caller is told for how long it has waited, while nothing else changes.
_TELL_EVERY_S = 1.0
_MAX_TEXT_BYTES = 256

Replies = Callable[[memoryview, Caller], Generator[EncodedFrame]]


class Exchange:
    """An exchange that a client has begun (`Caller`).

    Attributes:
        number: the client's name for it.
        replies: the function from the request and its sender to the replies.
        reader: of the request's frame.
        heard_at: when bytes of the request came last, by `monotonic`.
        request_bytes: of the request's frame, as soon as its size is known.
        is_use: whether the worker is in use from the request's first byte on.
        has_many_replies: whether any number of replies may come, and not one.
        is_answered: whether the request is whole and its replies are being made.
        is_dropped: whether the client wants no replies any more, or the connection has ended.
    """

    def __init__(self, number: int, replies: Replies, link: Link, limits: FrameLimits) -> None:
        self.number = number
        self.replies = replies
        self.reader = FrameReader(limits)
        self.heard_at = monotonic()
        self.request_bytes = 0
        self.is_use = False
        self.has_many_replies = False
        self.is_answered = False
        self.is_dropped = False
        self._link = link
        self._told: Waiting | None = None
        self._told_at = 0.0

    def is_gone(self) -> bool:
        """Return whether nobody waits for the replies any more; see `Caller`."""
        return self.is_dropped

    def tell(self, waiting: Waiting) -> bool:
        """Send what the exchange waits for; return True, since it arrives. See `Caller`."""
        now = monotonic()
        if not waiting.is_like(self._told) or now - self._told_at >= _TELL_EVERY_S:
            self._told, self._told_at = waiting, now
            text = str(waiting).encode()[:_MAX_TEXT_BYTES]
            try:
                self._link.post(sealed(Kind.WAITING, self.number, text))
            except LinkClosedError:
                self.is_dropped = True
        return True
