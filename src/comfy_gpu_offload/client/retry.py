"""When to try again: one policy for all that a session sends, and a judge for each kind of attempt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from random import SystemRandom
from time import monotonic, sleep
from typing import TypeVar

from ..errors import (
    ConnectError,
    ExchangeTimeoutError,
    FrameError,
    HttpStatusError,
    NoWorkerError,
    OffloadError,
    TransportError,
    WorkerBusyError,
    WorkerFaultError,
)
from ..protocol.envelope import ProtocolSkewError
from ..protocol.messages import FaultCode
from ..transport.base import CHECK_INTERVAL_S, Check

T = TypeVar("T")

_RANDOM = SystemRandom()
_OF_WHAT_IS_UNREAD = {FaultCode.BAD_FRAME, FaultCode.TOO_LARGE, FaultCode.UNAUTHORIZED}


class Again(Enum):
    """What follows an attempt that failed."""

    NO = "no"
    ONCE = "once"
    """It is believed when it is said twice: what was altered on its way can look like it."""
    YES = "yes"
    IN_TURN = "in turn"
    """Whoever answers is there, and says that others come first: that takes none of the time for attempts."""


Judge = Callable[[OffloadError], Again]


def after_any(error: OffloadError) -> Again:
    """Judge an attempt that may be made as often as one likes: an upload, a hello."""
    if isinstance(error, WorkerBusyError):
        return Again.IN_TURN
    if isinstance(error, TransportError | WorkerFaultError) and error.retryable:
        return Again.YES
    return Again.ONCE if _may_be_damage(error) else Again.NO


def after_call(error: OffloadError) -> Again:
    """Judge a forward call or a run. Its time is over once: the worker computes, and would for as long again."""
    return Again.NO if isinstance(error, ExchangeTimeoutError) else after_any(error)


def when_connecting(error: OffloadError) -> Again:
    """Judge a first hello by somebody who wants to know at once that no worker is there."""
    if isinstance(error, WorkerBusyError):  # a hello waits for nobody: the worker still starts
        return Again.YES
    return when_measuring(error)


def when_measuring(error: OffloadError) -> Again:
    """Judge a probe: what is measured can be measured later, but it takes its turn as a call does."""
    return Again.NO if isinstance(error, ConnectError | NoWorkerError) else after_any(error)


def when_awaited(error: OffloadError) -> Again:
    """Judge a first hello, or the loading of a model, by somebody who waits for a worker to come up.

    An endpoint's worker has been waited for already; a name that does not exist is a wrong setting.
    """
    hopeless = isinstance(error, NoWorkerError) or (isinstance(error, ConnectError) and error.unknown_host)
    return Again.NO if hopeless else after_any(error)


def _may_be_damage(error: OffloadError) -> bool:
    """Whether a head or a frame that was altered on its way can have led to it, in either direction."""
    if isinstance(error, ProtocolSkewError):
        return False
    if isinstance(error, WorkerFaultError):
        return error.unread and error.code in _OF_WHAT_IS_UNREAD
    return isinstance(error, HttpStatusError | FrameError)


@dataclass(frozen=True)
class RetryPolicy:
    """Seconds. The n-th wait is drawn from 0.5 to 1 times ``first_s * 2**n``, at most `longest_s`."""

    total_s: float = 120.0
    first_s: float = 0.1
    longest_s: float = 3.0

    def delay_s(self, attempt: int) -> float:
        """Return how long to wait before attempt `attempt` + 1 (0 is the first)."""
        ceiling = min(self.longest_s, self.first_s * 2.0 ** min(attempt, 30))
        return ceiling * _RANDOM.uniform(0.5, 1.0)


class Retries:
    """The attempts at one thing. Their time begins with the first failure.

    Args:
        judge: says of an attempt's error what follows it.
        check: called several times a second of waiting; whatever it raises ends that and is raised.
        on_wait: told of the error before each wait.
    """

    def __init__(
        self,
        policy: RetryPolicy,
        judge: Judge,
        check: Check | None,
        on_wait: Callable[[OffloadError], None] = lambda _: None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._policy = policy
        self._judge = judge
        self._check = check
        self._on_wait = on_wait
        self._clock = clock
        self.begin_anew()

    def begin_anew(self) -> None:
        """Give the next failure all the time again: the worker came further in between."""
        self._attempt = 0
        self._doubted = False
        self._deadline: float | None = None

    def run(self, attempt: Callable[[], T]) -> T:
        """Return what `attempt` returns, called as often as it needs and may.

        Raises:
            OffloadError: the last attempt's.
        """
        while True:
            try:
                return attempt()
            except OffloadError as error:
                self.after(error)

    def after(self, error: OffloadError) -> None:
        """Wait for the next attempt, the last having ended in `error`.

        Raises:
            OffloadError: it is `error`, and there is no next one.
        """
        verdict = self._judge(error)
        if verdict is Again.NO or (verdict is Again.ONCE and self._doubted):
            raise error
        self._doubted = self._doubted or verdict is Again.ONCE
        if verdict is Again.IN_TURN:
            self._deadline = None
        self._wait(error, in_turn=verdict is Again.IN_TURN)

    def _wait(self, error: OffloadError, *, in_turn: bool) -> None:
        now = self._clock()
        until = now + self._policy.delay_s(self._attempt)
        self._attempt += 1
        if not in_turn:
            if self._deadline is None:
                self._deadline = now + self._policy.total_s
            if until > self._deadline:
                raise error
        self._on_wait(error)
        while (left := until - self._clock()) > 0:
            if self._check is not None:
                self._check()
            sleep(min(left, CHECK_INTERVAL_S))
