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
        self._lock = threading.Lock()

    def get(self, request: str) -> Future[EncodedFrame] | None:
        """The reply to that request, under way or finished, or None."""
        with self._lock:
            return self._replies.get(request)

    def add(self, request: str, reply: Future[EncodedFrame]) -> None:
        """Remembers a reply under way."""
        with self._lock:
            self._replies[request] = reply
        reply.add_done_callback(lambda done: self._finished(request, done))

    def forget(self, request: str) -> None:
        """Asked for again, this request is to be computed again."""
        with self._lock:
            self._drop(request)

    def _drop(self, request: str) -> None:
        self._replies.pop(request, None)
        self._sizes.pop(request, None)

    def _finished(self, request: str, reply: Future[EncodedFrame]) -> None:
        with self._lock:
            if request not in self._replies:
                return
            self._sizes[request] = reply.result().size_bytes
            while len(self._sizes) > self._count or sum(self._sizes.values()) > self._budget_bytes:
                self._drop(next(iter(self._sizes)))
