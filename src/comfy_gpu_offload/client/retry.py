"""The retry policy of all that a session sends, and a predicate for each kind of attempt."""

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
_FAULTS_OF_UNREAD_FRAMES = {FaultCode.BAD_FRAME, FaultCode.TOO_LARGE, FaultCode.UNAUTHORIZED}


class Again(Enum):
    """The verdict on a failed attempt: what follows it."""

    NO = "no"
    ONCE = "once"
    """Final only when it comes twice: a frame that was damaged on its way can cause it."""
    YES = "yes"
    IN_TURN = "in turn"
    """The worker is there, and others come first: the wait does not count against the time for attempts."""


Judge = Callable[[OffloadError], Again]


def after_any(error: OffloadError) -> Again:
    """Judge an attempt that does no harm when it is repeated: an upload, a hello."""
    if isinstance(error, WorkerBusyError):
        return Again.IN_TURN
    if isinstance(error, TransportError | WorkerFaultError) and error.retryable:
        return Again.YES
    return Again.ONCE if _may_be_damage(error) else Again.NO


def after_call(error: OffloadError) -> Again:
    """Judge a forward call or a run. A time-out is final: the worker computes, and would take as long again."""
    return Again.NO if isinstance(error, ExchangeTimeoutError) else after_any(error)


def when_connecting(error: OffloadError) -> Again:
    """Judge a first hello whose caller wants an error at once if no worker is there."""
    if isinstance(error, WorkerBusyError):  # a hello waits for no other call, so the worker is still starting
        return Again.YES
    return when_measuring(error)


def when_measuring(error: OffloadError) -> Again:
    """Judge a probe, which can be made later, but takes its turn as a call does."""
    return Again.NO if isinstance(error, ConnectError | NoWorkerError) else after_any(error)


def when_awaited(error: OffloadError) -> Again:
    """Judge a first hello, or the loading of a model, whose caller waits for a worker to come up.

    Two errors are final all the same: an endpoint's worker has been waited for already, and a host name that does
    not exist is a wrong setting.
    """
    hopeless = isinstance(error, NoWorkerError) or (isinstance(error, ConnectError) and error.unknown_host)
    return Again.NO if hopeless else after_any(error)


def _may_be_damage(error: OffloadError) -> bool:
    """Return whether a head or a frame that was damaged on its way, either way, can have caused the error."""
    if isinstance(error, ProtocolSkewError):
        return False
    if isinstance(error, WorkerFaultError):
        return error.unread and error.code in _FAULTS_OF_UNREAD_FRAMES
    return isinstance(error, HttpStatusError | FrameError)


@dataclass(frozen=True)
class RetryPolicy:
    """The duration of retries. The n-th wait is drawn evenly from 0.5 to 1 times ``first_s * 2**n`` seconds.

    Attributes:
        total_s: seconds from the first failure to the last attempt.
        first_s: the ceiling of the first wait, in seconds.
        longest_s: the ceiling of any wait, in seconds.
    """

    total_s: float = 120.0
    first_s: float = 0.1
    longest_s: float = 3.0

    def delay_s(self, attempt: int) -> float:
        """Return the seconds to wait after attempt `attempt` (0 is the first)."""
        ceiling = min(self.longest_s, self.first_s * 2.0 ** min(attempt, 30))
        return ceiling * _RANDOM.uniform(0.5, 1.0)


class Retries:
    """The attempts to get one thing done. Their time begins with the first failure.

    Args:
        policy: how long to go on.
        judge: decides by an attempt's error what follows.
        check: called several times a second during waits; what it raises ends them.
        on_wait: called with the error before each wait.
        clock: returns seconds.
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
        """Give the next failure all the time again: there has been progress since the last."""
        self._attempt = 0
        self._doubted = False
        self._deadline: float | None = None

    def run(self, attempt: Callable[[], T]) -> T:
        """Call `attempt` until it returns, and return its result.

        Raises:
            OffloadError: of the last attempt.
        """
        while True:
            try:
                return attempt()
            except OffloadError as error:
                self.after(error)

    def after(self, error: OffloadError) -> None:
        """Wait for the next attempt after one that raised `error`.

        Raises:
            OffloadError: `error`, if there is to be no further attempt.
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
