"""The message that cancels a call at its worker."""

from __future__ import annotations

import logging
import threading

from ..errors import OffloadError
from ..protocol.envelope import seal
from ..protocol.messages import Cancel, Cancelled
from ..transport.base import Timeouts
from .exchanges import Exchanges
from .retry import Retries, RetryPolicy, when_connecting
from .worker_faults import expect_answer

logger = logging.getLogger(__name__)

_TIMEOUTS = Timeouts(connect_s=2.0, exchange_s=5.0)
# A worker that cannot be reached for longer has lost the connection too, or has ended.
_RETRY = RetryPolicy(total_s=10.0)


def cancel_at_worker(exchanges: Exchanges, request: str) -> None:
    """Cancel the call named `request` at the worker, on a thread of its own: the caller goes on at once."""
    if not exchanges.carries_cancel:
        return

    def cancel() -> None:
        frame = seal(Cancel(request=request))

        def attempt() -> Cancelled:
            envelope, _ = exchanges.ask("cancel", request, frame, _TIMEOUTS)
            return expect_answer(envelope.message, Cancelled)

        try:
            Retries(_RETRY, when_connecting, None).run(attempt)
        except OffloadError as error:
            logger.debug("the worker could not be told of a cancelled call: %s", type(error).__name__)

    # No daemon: a process that ends with the interrupt would end the thread first, and the worker would go on.
    threading.Thread(target=cancel, name="comfy-gpu-offload-cancel").start()
