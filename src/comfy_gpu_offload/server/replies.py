"""The last replies, so that one the connection lost can be asked for again without computing it again."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque

from ..io.frame import EncodedFrame


class PendingReply:
    """A reply under way, for all who wait for it; made to be cheap where nobody does."""

    __slots__ = ("_error", "_frame", "_made")

    def __init__(self) -> None:
        self._frame: EncodedFrame | None = None
        self._error: BaseException | None = None
        self._made = threading.Lock()
        self._made.acquire()

    def set_result(self, frame: EncodedFrame) -> None:
        """It is `frame`."""
        self._frame = frame
        self._made.release()

    def set_exception(self, error: BaseException) -> None:
        """There will be none."""
        self._error = error
        self._made.release()

    def result(self) -> EncodedFrame:
        """The reply, waited for.

        Raises:
            What kept it from being made.
        """
        with self._made:  # whoever waits besides comes next
            pass
        if self._frame is None:
            raise self._error or RuntimeError("a reply that is neither made nor failed")
        return self._frame


class ReplyCache:
    """Replies under way and the last finished ones, by request. Thread-safe.

    Args:
        budget_bytes: what finished replies may take together.
        count: how many at most.
        for_each: how many of one client. A client's calls follow one another, so that it asks again for its last,
            and each one more is memory that the next reply has to be written to with cold caches.
    """

    def __init__(self, budget_bytes: int = 256 * 1024**2, count: int = 64, for_each: int = 4) -> None:
        self._budget_bytes = budget_bytes
        self._count = count
        self._for_each = for_each
        self._replies: dict[str, PendingReply] = {}
        self._finished: OrderedDict[str, tuple[str, int]] = OrderedDict()  # whose, and how many bytes
        self._clients: dict[str, deque[str]] = {}
        self._used_bytes = 0
        self._lock = threading.Lock()

    def get(self, request: str) -> PendingReply | None:
        """The reply to that request, under way or finished, or None."""
        return self._replies.get(request)

    def claim(self, request: str) -> tuple[PendingReply, bool]:
        """The reply to that request, and whether it is asked for the first time: then the caller must finish it."""
        with self._lock:
            reply = self._replies.get(request)
            if reply is not None:
                return reply, False
            reply = self._replies[request] = PendingReply()
            return reply, True

    def finish(self, client: str, request: str, reply: PendingReply, frame: EncodedFrame) -> None:
        """The claimed `reply` is `frame`."""
        reply.set_result(frame)
        with self._lock:
            if self._replies.get(request) is not reply:
                return  # forgotten
            self._finished[request] = client, frame.size_bytes
            self._used_bytes += frame.size_bytes
            own = self._clients.setdefault(client, deque())
            own.append(request)
            if len(own) > self._for_each:
                self._drop(own[0])
            while len(self._finished) > self._count or self._used_bytes > self._budget_bytes:
                self._drop(next(iter(self._finished)))

    def forget(self, request: str) -> None:
        """Asked for again, this request is to be computed again."""
        with self._lock:
            self._drop(request)

    def _drop(self, request: str) -> None:
        self._replies.pop(request, None)
        client, size_bytes = self._finished.pop(request, (None, 0))
        self._used_bytes -= size_bytes
        if client is not None:
            own = self._clients[client]
            own.remove(request)
            if not own:
                del self._clients[client]
