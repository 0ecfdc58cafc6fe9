"""Telling a worker of a call that was cancelled."""

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
# A worker that cannot be told for longer has lost the connection too, or ended.
_RETRY = RetryPolicy(total_s=10.0)


def tell_of_cancel(exchanges: Exchanges, request: str) -> None:
    """Tell the worker, without keeping the caller: it has been interrupted and wants to go on."""
    if not exchanges.carries_cancel:
        return

    def tell() -> None:
        frame = seal(Cancel(request=request))

        def attempt() -> Cancelled:
            envelope, _ = exchanges.ask("cancel", request, frame, _TIMEOUTS)
            return expect_answer(envelope.message, Cancelled)

        try:
            Retries(_RETRY, when_connecting, None).run(attempt)
        except OffloadError as error:
            logger.debug("the worker could not be told of a cancelled call: %s", type(error).__name__)

    # No daemon: a process that ends with the interrupt would end it first, and the worker compute for nobody.
    threading.Thread(target=tell, name="comfy-gpu-offload-cancel").start()
