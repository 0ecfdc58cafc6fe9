"""When a call is made again, and what has to be done before."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from time import monotonic

from ..errors import OffloadError, TransportError, WorkerBusyError
from ..protocol.messages import Fault, FaultCode
from ..transport.base import Check, Notify
from .encoding.digest_cache import DigestCache
from .retry import Retries, RetryPolicy, after_call
from .weight_patches import PatchUploads, WeightPatches
from .worker_faults import error_of

logger = logging.getLogger(__name__)

# A fault that lists missing tensors is answered with them; a worker that still lacks them has no room.
_MAX_RESENDS = 3
# Whoever waits for a worker that was lost is told of it that often.
_NOTIFY_EVERY_S = 5.0


class Attempts:
    """The attempts of one forward call or run, in which the worker may turn out to lack things.

    Args:
        policy: how long to go on after a loss.
        digests, uploads: what the worker is taken to hold: tensors, and patches.
        patches: those that this call names.
        notify: told, a line at a time, how long the worker has been away.
    """

    def __init__(
        self,
        policy: RetryPolicy,
        digests: DigestCache,
        uploads: PatchUploads,
        patches: Sequence[WeightPatches],
        check: Check | None,
        *,
        notify: Notify | None = None,
    ) -> None:
        self._policy = policy
        self._digests = digests
        self._uploads = uploads
        self._patches = patches
        self._check = check
        self._notify = notify
        self._lost_at: float | None = None
        self._notified_at = float("-inf")
        self._retries = Retries(policy, after_call, check, self._tell_of)
        self._resends = 0

    def begin(self) -> None:
        """Before the first one: makes the call's patches known.

        Raises:
            TransportError: the worker cannot be reached.
            WorkerFaultError: it refused them.
        """
        self._uploads.ensure(self._patches, self._check)

    def after_loss(self, error: OffloadError) -> None:
        """Wait for the next one, the last having ended in `error`.

        Raises:
            OffloadError: it is `error`, and there is no next one.
        """
        self._retries.after(error)

    def _tell_of(self, error: OffloadError) -> None:
        if isinstance(error, WorkerBusyError) and self._notify is not None:
            self._notify(str(error))
            return
        if not (isinstance(error, TransportError) and error.retryable):
            logger.info("A call is made again: %s", error)
            return
        now = monotonic()
        if self._lost_at is None:
            self._lost_at = now
            text = "The worker was lost in the middle of a run and is tried again for up to %g s: %s"
            logger.warning(text, self._policy.total_s, error)
        else:
            logger.debug("the worker is still away: %s", error)
        if self._notify is not None and now - self._notified_at >= _NOTIFY_EVERY_S:
            self._notified_at = now
            away_s, most_s = now - self._lost_at, self._policy.total_s
            self._notify(f"the worker was lost {away_s:.0f} s ago; tried again for up to {most_s:g} s")

    def answered(self) -> None:
        """The worker is there, and says something."""
        if self._lost_at is None:
            return
        text = f"the worker is back after {monotonic() - self._lost_at:.0f} s"
        self._lost_at = None
        if self._notify is None:
            logger.info("%s", text)
        else:
            self._notify(text)

    def after_fault(self, fault: Fault) -> None:
        """Gives the worker what it lacks, or waits, the last one having been answered with `fault`.

        Raises:
            WorkerFaultError: it is that fault, and there is no next one.
        """
        if fault.code is FaultCode.MISSING_TENSORS and self._resends < _MAX_RESENDS:
            self._resends += 1
            self._digests.lacking(fault.missing)
            logger.debug("the worker lacks %d tensors; they are sent again", len(fault.missing))
            return
        self._retries.after(error_of(fault))
        if fault.code is FaultCode.UNKNOWN_PATCHES:
            self._uploads.define(self._patches, self._check)

    def came_further(self) -> None:
        """What is lost from now on is another loss, with all the time for it."""
        self._retries.begin_anew()
