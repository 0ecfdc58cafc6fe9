"""When a call is made again, and what has to be done before."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ..errors import ExchangeTimeoutError, TransportError
from ..protocol.messages import Fault, FaultCode
from ..transport.base import Check
from .faults import error_of
from .recurrence import Recurrence
from .retry import Patience, RetryPolicy
from .weight_patches import PatchUploads, WeightPatches

logger = logging.getLogger(__name__)

# A fault that lists missing tensors is answered with them; a worker that still lacks them has no room.
_MAX_RESENDS = 3


class Attempts:
    """The attempts of one forward call or run, in which the worker may turn out to lack things.

    Args:
        policy: how long to go on after a loss.
        recurrence, uploads: what the worker is taken to hold: tensors, and patches.
        patches: those that this call names.
    """

    def __init__(
        self,
        policy: RetryPolicy,
        recurrence: Recurrence,
        uploads: PatchUploads,
        patches: Sequence[WeightPatches],
        check: Check | None,
    ) -> None:
        self._policy = policy
        self._recurrence = recurrence
        self._uploads = uploads
        self._patches = patches
        self._check = check
        self._patience = Patience(policy, check)
        self._resends = 0

    def begin(self) -> None:
        """Before the first one: makes the call's patches known.

        Raises:
            TransportError: the worker cannot be reached.
            WorkerFaultError: it refused them.
        """
        self._uploads.ensure(self._patches, self._check)

    def after_loss(self, error: TransportError) -> None:
        """Waits for the next one, the last having ended in `error`.

        Raises:
            TransportError: it is `error`, and there is no next one.
        """
        if not error.retryable or isinstance(error, ExchangeTimeoutError):
            raise error
        logger.warning("The worker was lost in the middle of a run and is tried again: %s", error)
        if not self._patience.wait():
            raise error

    def after_fault(self, fault: Fault) -> None:
        """Gives the worker what it lacks, or waits, the last one having been answered with `fault`.

        Raises:
            WorkerFaultError: it is that fault, and there is no next one.
        """
        if fault.code is FaultCode.MISSING_TENSORS and self._resends < _MAX_RESENDS:
            self._resends += 1
            self._recurrence.lacking(fault.missing)
            logger.debug("the worker lacks %d tensors; they are sent again", len(fault.missing))
        elif not fault.retryable or not self._patience.wait():
            raise error_of(fault)
        elif fault.code is FaultCode.UNKNOWN_PATCHES:
            self._uploads.define(self._patches, self._check)

    def came_further(self) -> None:
        """What is lost from now on is another loss, with all the time for it."""
        self._patience = Patience(self._policy, self._check)
