"""The exchanges of a forward call: usually one, and another where that helps."""

from __future__ import annotations

import logging
from functools import partial
from time import perf_counter

from ..errors import CodecError
from ..io.frame import Part
from ..io.tree import Tree
from ..protocol.envelope import Envelope, seal_parts
from ..protocol.messages import Fault, FaultCode, Kept, Result, expect
from ..transport.base import Check
from .attempts import Attempts
from .call import Call
from .kept_reply import FetchRefusedError, KeptReply
from .model_call import OnReceived
from .session_parts import SessionParts
from .timings import CallTimings
from .worker_faults import error_of

logger = logging.getLogger(__name__)

# Faults after which the call is sent again without a prediction.
_SENT_PLAINLY = {FaultCode.UNKNOWN_HISTORY, FaultCode.WRONG_PREDICTION}
# An endpoint may send each fetch to another worker, which has no reply to fetch from.
_MOST_LOST_REPLIES = 2


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

        def received(done: int, of: int) -> None:
            if done:
                attempts.came_further()
            call.on_received(done, of)

        fetching = _Fetching(self._parts, received)
        return attempts.run(
            partial(self._attempt, call, fetching, check),
            on_fault=lambda fault: fetching.begins_anew(fault) or self._sent_plainly(call, fault),
        )

    def _sent_plainly(self, call: Call, fault: Fault) -> bool:
        """Return whether the next attempt, without the prediction of this one, answers `fault`."""
        if fault.code not in _SENT_PLAINLY or call.encoding.prediction is None:
            return False
        logger.info("A prediction did not hold (%s), and the call is made again.", fault.code.value)
        self._parts.digests.lacking(fault.missing)
        call.send_plainly(fault.code)
        return True

    def _attempt(self, call: Call, fetching: _Fetching, check: Check | None) -> tuple[Tree, CallTimings] | Fault:
        """Make one exchange, or fetch the rest of a reply; return the result with its timings, or the fault."""
        if fetching.reply is None:
            parts, envelope = self._exchange(call, check)
            if isinstance(envelope.message, Kept):
                fetching.reply = KeptReply(envelope.message, self._parts.options.limits, parts)
        if fetching.reply is not None:
            parts = fetching.reply.sent
            with call.meter.exchanging():
                fetched = fetching.fetch(check)
            if isinstance(fetched, Fault):
                return fetched
            envelope = fetched
            call.meter.received(fetching.reply.size_bytes)
            fetching.reply = None  # whatever is wrong with it, it is not to be fetched once more
        t2 = perf_counter()
        if isinstance(envelope.message, Fault):
            return envelope.message
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

    def _exchange(self, call: Call, check: Check | None) -> tuple[list[Part], Envelope]:
        """Send the call; return the parts of its frame, and the reply."""
        t0 = perf_counter()
        parts = call.encoding.parts(call.packed, call.host)
        message = call.next_message
        t1 = perf_counter()
        frame = seal_parts(message, call.packed.skeleton, parts, call.encoding.codec)
        self._parts.handshake.refuse_too_large(frame)
        call.meter.sending(frame, pack_s=t1 - t0, encode_s=perf_counter() - t1)
        with call.meter.exchanging():
            envelope, size_bytes = self._parts.exchanges.ask(
                "forward", call.message.request, frame, self._parts.options.call, check
            )
        if not isinstance(envelope.message, Fault):
            call.meter.received(size_bytes)
        return parts, envelope


class _Fetching:
    """The fetching of a call's reply in parts, where the worker keeps it. For one thread.

    Attributes:
        reply: what has come of it; None while the worker keeps none.
    """

    def __init__(self, parts: SessionParts, on_received: OnReceived) -> None:
        self.reply: KeptReply | None = None
        self._parts = parts
        self._on_received = on_received
        self._lost = 0

    def fetch(self, check: Check | None) -> Envelope | Fault:
        """Fetch the rest of the reply, and return it, or the fault with which the worker refuses a part."""
        if self.reply is None:
            raise RuntimeError("there is no reply to fetch")
        try:
            return self.reply.fetch(self._parts.exchanges, self._parts.options, check, self._on_received)
        except FetchRefusedError as error:
            return error.fault

    def begins_anew(self, fault: Fault) -> bool:
        """Forget a reply that the worker does not keep, and return whether the call is to be made again for it.

        Raises:
            WorkerFaultError: that has happened too often.
        """
        if fault.code is not FaultCode.UNKNOWN_REPLY:
            return False
        self.reply, self._lost = None, self._lost + 1
        if self._lost > _MOST_LOST_REPLIES:
            raise error_of(fault)
        logger.info("The worker does not keep a reply until it is fetched, and the call is made again.")
        return True
