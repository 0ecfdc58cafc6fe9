"""The attempts of one call: when it is sent again, and what the worker is given before."""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic
from typing import TypeVar

from ..errors import FrameError, OffloadError, TransportError, WorkerBusyError
from ..protocol.messages import Fault, FaultCode
from ..transport.base import Check
from .call import Call
from .retry import Retries, after_call
from .session_parts import SessionParts
from .worker_faults import error_of

logger = logging.getLogger(__name__)

AnswerT = TypeVar("AnswerT")

# A fault that lists missing tensors is answered with them; a worker that still lacks them has no room.
_MAX_RESENDS = 3
# How often a user who waits for a lost worker is told of it.
_NOTIFY_EVERY_S = 5.0


class Attempts:
    """The attempts of one forward call or run, in which the worker may turn out to lack tensors or patches.

    Args:
        parts: of the session; its `notify` is told, a line at a time, how long the worker has been away.
        call: names its patches.
        check: is called several times a second during waits; what it raises ends them.
    """

    def __init__(self, parts: SessionParts, call: Call, check: Check | None) -> None:
        self._parts = parts
        self._call = call
        self._check = check
        self._notify = parts.options.notify
        self._lost_at: float | None = None
        self._notified_at = float("-inf")
        self._retries = Retries(parts.options.retry, after_call, check, self._announce)
        self._resends = 0

    def run(
        self,
        attempt: Callable[[], AnswerT | Fault],
        *,
        on_loss: Callable[[], None] = lambda: None,
        on_fault: Callable[[Fault], bool] = lambda _: False,
    ) -> AnswerT:
        """Make the call's patches known to the worker, then return the first answer that is no fault.

        Args:
            attempt: makes one exchange, and returns its answer or the worker's fault.
            on_loss: called after an attempt whose connection or reply was lost, before the wait for the next.
            on_fault: called with a fault; returns True if it has dealt with it, and the next attempt may begin.

        Raises:
            TransportError: the worker could not be reached for as long as the retry policy says.
            WorkerFaultError: the worker refused, or the model failed.
        """
        if patches := self._call.named_patches:
            uploads = self._parts.uploads
            with self._call.meter.uploading(uploads):
                uploads.ensure(patches, self._check)
        while True:
            try:
                answer = attempt()
            except (TransportError, FrameError) as error:
                on_loss()
                self._retries.after(error)
                continue
            if not isinstance(answer, Fault):
                self.answered()
                return answer
            if not on_fault(answer):
                self._supply(answer)

    def answered(self) -> None:
        """Tell the user, if the worker was lost, that it is back."""
        if self._lost_at is None:
            return
        text = f"the worker is back after {monotonic() - self._lost_at:.0f} s"
        self._lost_at = None
        if self._notify is None:
            logger.info("%s", text)
        else:
            self._notify(text)

    def came_further(self) -> None:
        """Give the next loss all the time of the retry policy again: the run has made progress since the last."""
        self._retries.begin_anew()

    def _supply(self, fault: Fault) -> None:
        """Give the worker what `fault` says that it lacks, or wait.

        Raises:
            WorkerFaultError: neither would help.
        """
        if fault.code is FaultCode.MISSING_TENSORS and self._resends < _MAX_RESENDS:
            self._resends += 1
            self._parts.digests.lacking(fault.missing)
            if self._resends > 1:
                self._call.encoding.name_nothing()
            logger.debug("the worker lacks %d tensors; they are sent again", len(fault.missing))
            return
        self._retries.after(error_of(fault))
        if fault.code is FaultCode.UNKNOWN_PATCHES:
            self._parts.uploads.define(self._call.named_patches, self._check)

    def _announce(self, error: OffloadError) -> None:
        """Tell the user of an error after which the call is sent again."""
        if isinstance(error, WorkerBusyError) and self._notify is not None:
            self._notify(str(error))
            return
        if not (isinstance(error, TransportError) and error.retryable):
            logger.info("A call is made again: %s", error)
            return
        now, most_s = monotonic(), self._parts.options.retry.total_s
        if self._lost_at is None:
            self._lost_at = now
            text = "The worker was lost in the middle of a run and is tried again for up to %g s: %s"
            logger.warning(text, most_s, error)
        else:
            logger.debug("the worker is still away: %s", error)
        if self._notify is not None and now - self._notified_at >= _NOTIFY_EVERY_S:
            self._notified_at = now
            away_s = now - self._lost_at
            self._notify(f"the worker was lost {away_s:.0f} s ago; tried again for up to {most_s:g} s")
