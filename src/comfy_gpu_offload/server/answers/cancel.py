"""Answers `cancel`: takes a waiting call out of the queue, or interrupts it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ...io.frame import EncodedFrame
from ...protocol.envelope import seal
from ...protocol.messages import Cancel, Cancelled
from ..replies import Finish
from .table import Asked, answers

if TYPE_CHECKING:
    from ..worker_parts import WorkerParts

logger = logging.getLogger(__name__)


@answers(Cancel)
def begin_cancel(worker: WorkerParts, message: Cancel, _: Asked) -> Finish:
    """Return what ends the call; nothing has to be waited for."""

    def finish() -> EncodedFrame:
        state = worker.executor.cancel(message.request, worker.backend.interrupt)
        logger.info("request %s cancelled; it was %s", message.request, state)
        return seal(Cancelled(request=message.request, state=state))

    return finish
