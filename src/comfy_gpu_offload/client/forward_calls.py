"""The exchanges of a forward call: usually one, and another where that helps."""

from __future__ import annotations

import logging
from functools import partial
from time import perf_counter

from ..errors import CodecError
from ..io.tree import Tree
from ..protocol.envelope import seal_parts
from ..protocol.messages import Fault, FaultCode, Result, expect
from ..transport.base import Check
from .attempts import Attempts
from .call import Call
from .session_parts import SessionParts
from .timings import CallTimings

logger = logging.getLogger(__name__)

# Faults after which the call is sent again without a prediction.
_SENT_PLAINLY = {FaultCode.UNKNOWN_HISTORY, FaultCode.WRONG_PREDICTION}


class ForwardCalls:
    """The forward calls of one session. Thread-safe."""

    def __init__(self, parts: SessionParts) -> None:
        self._parts = parts

    def answer(self, call: Call, check: Check | None) -> tuple[Tree, CallTimings]:
        """Return the call's result. After a loss it is sent again under its own name.

        Raises:
            TransportError: the worker could not be reached for as long as the retry policy says.
            WorkerFaultError: the worker refused, or the model failed.
        """
        attempts = Attempts(self._parts, call, check)
        return attempts.run(partial(self._attempt, call, check), on_fault=partial(self._sent_plainly, call))

    def _sent_plainly(self, call: Call, fault: Fault) -> bool:
        """Return whether the next attempt, without the prediction of this one, answers `fault`."""
        if fault.code not in _SENT_PLAINLY or call.encoding.prediction is None:
            return False
        logger.info("A prediction did not hold (%s), and the call is made again.", fault.code.value)
        self._parts.digests.lacking(fault.missing)
        call.send_plainly(fault.code)
        return True

    def _attempt(self, call: Call, check: Check | None) -> tuple[Tree, CallTimings] | Fault:
        """Make one exchange; return the result with its timings, or the fault."""
        t0 = perf_counter()
        message = call.next_message
        parts = call.encoding.parts(call.packed, call.host)
        t1 = perf_counter()
        frame = seal_parts(message, call.packed.skeleton, parts, call.encoding.codec)
        self._parts.handshake.refuse_too_large(frame)
        call.meter.sending(frame, pack_s=t1 - t0, encode_s=perf_counter() - t1)
        with call.meter.exchanging():
            envelope, size_bytes = self._parts.exchanges.ask(
                "forward", call.message.request, frame, self._parts.options.call, check
            )
        t2 = perf_counter()
        if isinstance(envelope.message, Fault):
            return envelope.message
        call.meter.received(size_bytes)
        result = expect(envelope.message, Result)
        try:
            envelope = call.encoding.decoded(result, envelope, parts)
        except CodecError as error:
            return Fault(code=FaultCode.WRONG_PREDICTION, message=str(error)[:4000])
        value = call.value_of(envelope)
        timings = call.meter.finish(result, perf_counter() - t2)
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("forward %s: %s", call.message.model.name, timings.summary())
        return value, timings
