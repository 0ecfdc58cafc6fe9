"""The exchanges of a sampling run, which is followed to its end over as many connections as that takes."""

from __future__ import annotations

import logging
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from time import perf_counter

from ..errors import ConnectionLostError, MessageError
from ..io.frame import EncodedFrame, Part
from ..io.tree import Tree
from ..protocol.envelope import Envelope, seal, seal_parts
from ..protocol.messages import Fault, Follow, Progress, Result, expect
from ..transport.base import Check, Notify
from .attempts import Attempts
from .call import Call
from .model_call import OnProgress
from .session_parts import SessionParts
from .timings import CallTimings

logger = logging.getLogger(__name__)


@dataclass
class Following:
    """The progress of a run, as far as this side knows.

    Attributes:
        on_progress: called for each step.
        notify: takes the worker's lines on what the run waits for.
        step: the last step that was reported.
        is_known: whether the worker has the run, so that it can be followed.
        lost_at: the step at which a connection was last lost.
    """

    on_progress: OnProgress
    notify: Notify
    step: int = 0
    is_known: bool = False
    lost_at: int = 0

    def progress(self, envelope: Envelope) -> None:
        """Take a frame of the run's progress.

        Raises:
            MessageError: it is something else.
        """
        message = expect(envelope.message, Progress)
        preview = envelope.unpack()
        if preview is not None and not isinstance(preview, bytes):
            raise MessageError("a preview must be an encoded picture")
        self.is_known = True
        if message.waiting is not None and message.waiting.isprintable():
            self.notify(message.waiting)
        if message.step > self.step:  # the last step comes again as a sign of life
            self.step = message.step
            self.on_progress(message.step, message.of, preview)

    def came_further(self) -> bool:
        """Return whether the run has made a step since the last loss, and note this loss."""
        further, self.lost_at = self.step > self.lost_at, max(self.step, self.lost_at)
        return further


class SamplingRuns:
    """The sampling runs of one session. Thread-safe."""

    def __init__(self, parts: SessionParts) -> None:
        self._parts = parts

    def answer(self, call: Call, on_progress: OnProgress, check: Check | None) -> tuple[Tree, CallTimings]:
        """Return the run's result. After a loss it is followed from where it was.

        Raises:
            TransportError: the worker could not be reached for as long as the retry policy says.
            WorkerFaultError: the worker refused, or the model failed.
        """
        attempts = Attempts(self._parts, call, check)

        def progressed(step: int, of: int, picture: bytes | None) -> None:
            attempts.answered()
            on_progress(step, of, picture)

        following = Following(progressed, self._parts.options.notify or _log)

        def lost() -> None:
            if following.came_further():
                attempts.came_further()

        def begin_anew(_: Fault) -> bool:
            following.is_known, following.step = False, 0
            return False

        return attempts.run(partial(self._attempt, call, following, check), on_loss=lost, on_fault=begin_anew)

    def _attempt(self, call: Call, following: Following, check: Check | None) -> tuple[Tree, CallTimings] | Fault:
        """Follow one stream, of the whole job or of the rest of a run that the worker knows."""
        t0 = perf_counter()
        parts: list[Part] = []
        if following.is_known:
            frame = seal(Follow(request=call.message.request, after=following.step))
        else:
            call.meter.begin_exchanges_anew()
            parts = call.encoding.parts(call.packed, call.host)
            frame = seal_parts(call.next_message, call.packed.skeleton, parts, call.encoding.codec)
            self._parts.handshake.refuse_too_large(frame)
        call.meter.sending(frame, encode_s=perf_counter() - t0)
        with call.meter.exchanging():
            envelope = self._last_of_stream(call, frame, following, check)
        t1 = perf_counter()
        if isinstance(envelope.message, Fault):
            return envelope.message
        result = expect(envelope.message, Result)
        value = call.value_of(call.encoding.decoded(result, envelope, parts))
        return value, call.meter.finish(result, perf_counter() - t1)

    def _last_of_stream(
        self, call: Call, frame: EncodedFrame, following: Following, check: Check | None
    ) -> Envelope:
        """Return the frame that ends the run, after passing on the progress that comes before it."""
        exchanges, options = self._parts.exchanges, self._parts.options
        with closing(exchanges.follow("sample", call.message.request, frame, options.call, check)) as replies:
            for envelope, size_bytes in replies:
                call.meter.received(size_bytes)
                if not isinstance(envelope.message, Progress):
                    return envelope
                following.progress(envelope)
                if check is not None:  # steps may come faster than a transport looks for an interrupt
                    check()
        raise ConnectionLostError("The worker's stream ended before the run did.")


def _log(text: str) -> None:
    logger.info("%s", text)
