"""The last replies, so that one the connection lost can be asked for again without computing it again."""

from __future__ import annotations

import threading
from collections import OrderedDict
from concurrent.futures import Future

from ..io.frame import EncodedFrame


class ReplyCache:
    """Replies under way and the last finished ones, by request. Thread-safe.

    Args:
        budget_bytes: what finished replies may take together.
        count: how many at most.
    """

    def __init__(self, budget_bytes: int = 256 * 1024**2, count: int = 64) -> None:
        self._budget_bytes = budget_bytes
        self._count = count
        self._replies: OrderedDict[str, Future[EncodedFrame]] = OrderedDict()
        self._sizes: dict[str, int] = {}
        self._used_bytes = 0
        self._lock = threading.Lock()

    def get(self, request: str) -> Future[EncodedFrame] | None:
        """The reply to that request, under way or finished, or None."""
        with self._lock:
            return self._replies.get(request)

    def claim(self, request: str) -> tuple[Future[EncodedFrame], bool]:
        """The reply to that request, and whether it is asked for the first time: then the caller must finish it."""
        with self._lock:
            reply = self._replies.get(request)
            if reply is not None:
                return reply, False
            reply = self._replies[request] = Future()
            return reply, True

    def finish(self, request: str, reply: Future[EncodedFrame], frame: EncodedFrame) -> None:
        """The claimed `reply` is `frame`."""
        reply.set_result(frame)
        with self._lock:
            if self._replies.get(request) is not reply:
                return  # forgotten
            self._sizes[request] = frame.size_bytes
            self._used_bytes += frame.size_bytes
            while len(self._sizes) > self._count or self._used_bytes > self._budget_bytes:
                self._drop(next(iter(self._sizes)))

    def forget(self, request: str) -> None:
        """Asked for again, this request is to be computed again."""
        with self._lock:
            self._drop(request)

    def _drop(self, request: str) -> None:
        self._replies.pop(request, None)
        self._used_bytes -= self._sizes.pop(request, 0)
