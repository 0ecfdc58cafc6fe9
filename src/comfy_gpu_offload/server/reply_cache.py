"""The last replies of each client: one that the connection lost is sent again without computing it again."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque

from ..io.frame import EncodedFrame
from .executor import CallerGoneError
from .waiting import PATIENT, Caller

# How often a thread that waits for another's reply checks on its caller.
_LOOK_EVERY_S = 0.5


class PendingReply:
    """A reply under way, for all threads that wait for it. Costs one lock where nobody does."""

    __slots__ = ("_error", "_frame", "_made", "joined")

    def __init__(self) -> None:
        self.joined = 0  # threads that wait, besides the one that makes it; guarded by the cache's lock
        self._frame: EncodedFrame | None = None
        self._error: BaseException | None = None
        # Held until the reply is there. Each waiting thread takes it and gives it back, so that the next one wakes.
        self._made = threading.Lock()
        self._made.acquire()

    def set_result(self, frame: EncodedFrame) -> None:
        """Give all who wait the reply `frame`. Called once, in place of `set_exception`."""
        self._frame = frame
        self._made.release()

    def set_exception(self, error: BaseException) -> None:
        """Have all who wait raise `error`."""
        self._error = error
        self._made.release()

    def result(self, caller: Caller = PATIENT) -> EncodedFrame:
        """Wait for the reply and return it.

        Raises:
            CallerGoneError: `caller` is gone.
            The error that was set in place of a reply.
        """
        while not self._made.acquire(timeout=_LOOK_EVERY_S):
            if caller.is_gone():
                raise CallerGoneError("Nobody waits for this call any more.")
        self._made.release()  # wakes the next thread that waits
        if self._frame is None:
            raise self._error or RuntimeError("a pending reply was released without a frame or an error")
        return self._frame


class ReplyCache:
    """The replies under way and the last finished ones, by the name of the request. Thread-safe.

    Args:
        budget_bytes: size of all finished replies together.
        count: number of all finished replies.
        for_each: number of finished replies of one client. A client's calls follow one another, so it asks again
            for its last ones only. With more of them, each reply is written to memory that no CPU cache holds.

    The lock guards the table, the counts and each reply's `joined` together: whether a request is computed or joins
    another one, and whether a reply that somebody joined may be given up, must be decided at once. It is not held
    while a thread waits for a reply.
    """

    def __init__(self, budget_bytes: int = 256 * 1024**2, count: int = 64, for_each: int = 4) -> None:
        self._budget_bytes = budget_bytes
        self._count = count
        self._for_each = for_each
        self._replies: dict[str, PendingReply] = {}
        self._finished: OrderedDict[str, tuple[str, int]] = OrderedDict()  # the client, and the size in bytes
        self._clients: dict[str, deque[str]] = {}
        self._used_bytes = 0
        self._lock = threading.Lock()

    def join(self, request: str) -> PendingReply | None:
        """Return the reply to that request, under way or finished, or None. Each one joined must be `leave`d."""
        if request not in self._replies:  # the usual case, which needs no lock; `claim` decides
            return None
        with self._lock:
            reply = self._replies.get(request)
            if reply is not None:
                reply.joined += 1
            return reply

    def leave(self, reply: PendingReply) -> None:
        """Note that a thread that joined the reply has what it waited for."""
        with self._lock:
            reply.joined -= 1

    def abandon(self, request: str, reply: PendingReply) -> bool:
        """Forget a reply under way, because its caller is gone; return False if another one has joined it."""
        with self._lock:
            if reply.joined:
                return False
            if self._replies.get(request) is reply:
                self._drop(request)
            return True

    def claim(self, request: str) -> tuple[PendingReply, bool]:
        """Return the reply to that request and whether it is new: a new one must be finished, another one left."""
        with self._lock:
            reply = self._replies.get(request)
            if reply is not None:
                reply.joined += 1
                return reply, False
            reply = self._replies[request] = PendingReply()
            return reply, True

    def finish(
        self, client: str, request: str, reply: PendingReply, frame: EncodedFrame, *, awaited: bool = False
    ) -> None:
        """Give the claimed `reply` its `frame`, and keep it.

        Args:
            awaited: whether the client fetches it in parts: it is then kept, even if it is larger than the budget,
                until the next reply comes.
        """
        reply.set_result(frame)
        with self._lock:
            if self._replies.get(request) is not reply:
                return  # it was forgotten meanwhile
            self._finished[request] = client, frame.size_bytes
            self._used_bytes += frame.size_bytes
            own = self._clients.setdefault(client, deque())
            own.append(request)
            if len(own) > self._for_each:
                self._drop(own[0])
            least = 1 if awaited else 0
            while len(self._finished) > least and (
                len(self._finished) > self._count or self._used_bytes > self._budget_bytes
            ):
                self._drop(next(iter(self._finished)))

    def finished(self, request: str) -> EncodedFrame | None:
        """Return the finished reply to that request, which then is the last to leave; None if it is not kept."""
        with self._lock:
            if request not in self._finished:
                return None
            self._finished.move_to_end(request)
            reply = self._replies[request]
        return reply.result()

    def forget(self, request: str, reply: PendingReply) -> None:
        """Have this request computed again when it is asked for again."""
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
