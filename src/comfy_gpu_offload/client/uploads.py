"""The exchange of an upload, retried where that helps."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any

from ..errors import OffloadError, WorkerFaultError
from ..io import codecs
from ..io.frame import Part
from ..protocol.capabilities import PACKED_HEADERS
from ..protocol.envelope import Envelope, seal_parts
from ..protocol.messages import Define, Fault, FaultCode, Store
from ..transport.base import Check
from .exchanges import Exchanges, new_request
from .handshake import Handshake
from .options import SessionOptions
from .retry import Retries, after_any
from .worker_faults import error_of

logger = logging.getLogger(__name__)


class UploadExchange:
    """A `weight_patches.Exchange`, for messages that may be sent twice: the worker computes nothing for them.

    Attributes:
        bytes_up: bytes of all frames that were sent.
    """

    def __init__(self, exchanges: Exchanges, options: SessionOptions, handshake: Handshake) -> None:
        self._exchanges = exchanges
        self._options = options
        self._handshake = handshake
        self._counting = threading.Lock()
        self.bytes_up = 0

    def __call__(
        self,
        message: Store | Define,
        skeleton: Any,
        parts: Sequence[Part],
        codec: codecs.Codec | codecs.Chooser,
        check: Check | None,
    ) -> Envelope:
        """Send `message`; return the reply, or the fault by which the worker says what it lacks.

        Raises:
            TransportError: the worker could not be reached for as long as the retry policy says.
            WorkerFaultError: it refused.
            TooLargeError: the worker does not take frames of that size.
        """
        request = new_request()
        packs = PACKED_HEADERS in self._handshake.capabilities
        named = message.model_copy(update={"request": request})
        frame = seal_parts(named, skeleton, list(parts), codec, packs_header=packs)
        self._handshake.refuse_too_large(frame)

        def attempt() -> Envelope:
            with self._counting:  # parts are sent on threads of their own
                self.bytes_up += frame.size_bytes
            envelope, _ = self._exchanges.ask("hello", request, frame, self._options.call, check)
            fault = envelope.message
            if isinstance(fault, Fault) and fault.code is not FaultCode.MISSING_TENSORS:
                raise error_of(fault)
            return envelope

        return Retries(self._options.retry, after_any, check, _tell).run(attempt)


def _tell(error: OffloadError) -> None:
    if isinstance(error, WorkerFaultError):
        logger.info("The worker does not take an upload yet and is asked again: %s", error)
    else:
        logger.warning("The worker was lost in the middle of an upload and is tried again: %s", error)
