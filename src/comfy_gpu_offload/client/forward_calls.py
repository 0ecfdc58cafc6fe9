"""A forward call on its way: one exchange, and another one where that helps."""

from __future__ import annotations

import logging
from time import perf_counter

from ..errors import CodecError, FrameError, TransportError
from ..io.tree import Tree
from ..protocol.envelope import seal_parts
from ..protocol.messages import Fault, FaultCode, Result, expect
from ..transport.base import Check
from .attempts import Attempts
from .call import Call
from .encoding.digest_cache import DigestCache
from .exchanges import Exchanges
from .handshake import Handshake
from .options import SessionOptions
from .timings import CallTimings
from .weight_patches import PatchUploads

logger = logging.getLogger(__name__)

_PLAIN_AGAIN = {FaultCode.UNKNOWN_HISTORY, FaultCode.WRONG_PREDICTION}


class ForwardCalls:
    """Has the forward calls of one session answered. Thread-safe.

    Args:
        digests, uploads: what the worker holds: tensors, and patches.
    """

    def __init__(
        self,
        exchanges: Exchanges,
        options: SessionOptions,
        handshake: Handshake,
        digests: DigestCache,
        uploads: PatchUploads,
    ) -> None:
        self._exchanges = exchanges
        self._options = options
        self._handshake = handshake
        self._digests = digests
        self._uploads = uploads

    def answer(self, call: Call, check: Check | None) -> tuple[Tree, CallTimings]:
        """The call's result. After a loss it goes again under its own name.

        Raises:
            TransportError: the worker could not be reached for as long as the retry policy says.
            WorkerFaultError: the worker refused, or the model failed.
        """
        attempts = Attempts(
            self._options.retry,
            self._digests,
            self._uploads,
            call.named_patches,
            check,
            notify=self._options.notify,
        )
        with call.uploading(self._uploads):
            attempts.begin()
        while True:
            try:
                answer = self._attempt(call, check)
            except (TransportError, FrameError) as error:
                attempts.after_loss(error)
                continue
            if not isinstance(answer, Fault):
                attempts.answered()
                return answer
            if answer.code in _PLAIN_AGAIN and call.encoding.prediction is not None:
                logger.info("A prediction did not hold (%s), and the call is made again.", answer.code.value)
                self._digests.lacking(answer.missing)
                call.send_plainly(answer.code)
            else:
                attempts.after_fault(answer)

    def _attempt(self, call: Call, check: Check | None) -> tuple[Tree, CallTimings] | Fault:
        """One exchange; the call's timings grow with each."""
        t0 = perf_counter()
        message = call.sent
        parts = call.encoding.parts(call.packed, call.host)
        t1 = perf_counter()
        frame = seal_parts(message, call.packed.skeleton, parts, call.encoding.codec)
        self._handshake.refuse_too_large(frame)
        t2 = perf_counter()
        call.pack_s += t1 - t0
        call.encode_s += t2 - t1
        call.bytes_up += frame.size_bytes
        call.exchanges += 1
        with call.exchanging():
            envelope, size = self._exchanges.ask("forward", call.message.request, frame, self._options.call, check)
        t3 = perf_counter()
        if isinstance(envelope.message, Fault):
            return envelope.message
        call.bytes_down += size
        result = expect(envelope.message, Result)
        call.encoding.delivered(result.instance, parts)
        try:
            envelope = call.encoding.decoded(result, envelope)
        except CodecError as error:
            return Fault(code=FaultCode.WRONG_PREDICTION, message=str(error)[:4000])
        value = call.value_of(envelope)
        timings = call.finish(result, perf_counter() - t3)
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("forward %s: %s", call.message.model.name, timings.summary())
        return value, timings
