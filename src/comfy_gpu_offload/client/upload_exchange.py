"""The exchange by which uploads go: tried again where that helps."""

from __future__ import annotations

import logging

from ..errors import TransportError
from ..io.frame import EncodedFrame
from ..protocol.envelope import Envelope
from ..protocol.messages import Fault, FaultCode
from ..transport.base import Check, Transport
from .faults import opened
from .handshake import Handshake
from .options import SessionOptions
from .retry import Patience

logger = logging.getLogger(__name__)


class UploadExchange:
    """See `weight_patches.Exchange`. For frames that may be sent twice, and make the worker compute nothing."""

    def __init__(self, transport: Transport, options: SessionOptions, handshake: Handshake) -> None:
        self._transport = transport
        self._options = options
        self._handshake = handshake

    def __call__(self, frame: EncodedFrame, check: Check | None) -> Envelope:
        """The reply, a fault where it is one.

        Raises:
            TransportError: the worker could not be reached for as long as the retry policy says.
            TooLargeError: the worker does not take that much.
        """
        patience = Patience(self._options.retry, check)
        self._handshake.refuse_too_large(frame)
        while True:
            try:
                reply = self._transport.exchange("hello", frame, self._options.call, check)
                envelope = opened(reply, self._options.limits)
            except TransportError as error:
                if not error.retryable or not patience.wait():
                    raise
                logger.warning("The worker was lost in the middle of an upload and is tried again: %s", error)
                continue
            fault = envelope.message
            again = isinstance(fault, Fault) and fault.retryable and fault.code is not FaultCode.MISSING_TENSORS
            if not again or not patience.wait():
                return envelope
