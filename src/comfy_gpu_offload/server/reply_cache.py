"""The last replies, so that one the connection lost can be asked for again without computing it again."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque

from ..io.frame import EncodedFrame
from .executor import CallerGoneError
from .waiting import PATIENT, Caller

# How often whoever waits for a reply that another makes looks whether it still has to.
_LOOK_EVERY_S = 0.5


class PendingReply:
    """A reply under way, for all who wait for it; made to be cheap where nobody does."""

    __slots__ = ("_error", "_frame", "_made", "joined")

    def __init__(self) -> None:
        self.joined = 0  # how many wait for it besides whoever makes it
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

    def result(self, caller: Caller = PATIENT) -> EncodedFrame:
        """Return the reply, waited for while `caller` is there.

        Raises:
            CallerGoneError: nobody waits here any more.
            What kept it from being made.
        """
        while not self._made.acquire(timeout=_LOOK_EVERY_S):
            if caller.is_gone():
                raise CallerGoneError("Nobody waits for this call any more.")
        self._made.release()  # whoever waits besides comes next
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

    def join(self, request: str) -> PendingReply | None:
        """Return the reply to that request, under way or finished, or None. Whoever joins one must `leave` it."""
        if request not in self._replies:  # the usual case, without a lock
            return None
        with self._lock:
            reply = self._replies.get(request)
            if reply is not None:
                reply.joined += 1
            return reply

    def leave(self, reply: PendingReply) -> None:
        """Note that somebody who joined it waits no more."""
        with self._lock:
            reply.joined -= 1

    def abandon(self, request: str, reply: PendingReply) -> bool:
        """Forget a reply under way whose maker has nobody to make it for; False where somebody joined it."""
        with self._lock:
            if reply.joined:
                return False
            if self._replies.get(request) is reply:
                self._drop(request)
            return True

    def claim(self, request: str) -> tuple[PendingReply, bool]:
        """Return the reply to that request, and whether it is new: then it must be finished, else be left."""
        with self._lock:
            reply = self._replies.get(request)
            if reply is not None:
                reply.joined += 1
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

    def forget(self, request: str, reply: PendingReply) -> None:
        """Asked for again, this request is to be computed again."""
        with self._lock:
            if self._replies.get(request) is reply:
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
