"""A sampling run at the worker, followed to its end over as many connections as that takes."""

from __future__ import annotations

import logging
from contextlib import closing
from dataclasses import dataclass
from time import perf_counter

from ..errors import ConnectionLostError, FrameError, MessageError, TransportError
from ..io.frame import EncodedFrame, Part
from ..io.tree import Tree
from ..protocol.envelope import Envelope, seal, seal_parts
from ..protocol.messages import Fault, Follow, Progress, Result, expect
from ..transport.base import Check, Notify
from .attempts import Attempts
from .call import Call
from .encoding.digest_cache import DigestCache
from .exchanges import Exchanges
from .handshake import Handshake
from .options import SessionOptions
from .remote_model import OnProgress
from .timings import CallTimings
from .weight_patches import PatchUploads

logger = logging.getLogger(__name__)


@dataclass
class Following:
    """How far a run has come, as far as this side knows."""

    on_progress: OnProgress
    notify: Notify
    step: int = 0
    is_known: bool = False

    def progress(self, envelope: Envelope) -> None:
        """A frame of the run's progress came.

        Raises:
            MessageError: it is none.
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


class SamplingRuns:
    """Has the sampling runs of one session done. Thread-safe.

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

    def answer(self, call: Call, on_progress: OnProgress, check: Check | None) -> tuple[Tree, CallTimings]:
        """The run's result. After a loss it is taken up where it broke.

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

        def progressed(step: int, of: int, picture: bytes | None) -> None:
            attempts.answered()
            on_progress(step, of, picture)

        following, came_to = Following(progressed, self._options.notify or _log), 0
        while True:
            try:
                answer = self._attempt(call, following, check)
            except (TransportError, FrameError) as error:
                if following.step > came_to:
                    attempts.came_further()
                    came_to = following.step
                attempts.after_loss(error)
                continue
            if not isinstance(answer, Fault):
                attempts.answered()
                return answer
            following.is_known, following.step = False, 0
            attempts.after_fault(answer)

    def _attempt(self, call: Call, following: Following, check: Check | None) -> tuple[Tree, CallTimings] | Fault:
        """One stream, of the whole job or of the rest of one that the worker has."""
        t0 = perf_counter()
        parts: list[Part] = []
        if following.is_known:
            frame = seal(Follow(request=call.message.request, after=following.step))
        else:
            call.exchange_s = 0.0  # what earlier ones did is lost
            parts = call.encoding.parts(call.packed, call.host)
            frame = seal_parts(call.message, call.packed.skeleton, parts, call.encoding.codec)
            self._handshake.refuse_too_large(frame)
        call.encode_s += perf_counter() - t0
        call.bytes_up += frame.size_bytes
        call.exchanges += 1
        with call.exchanging():
            envelope = self._last_of_stream(call, frame, following, check)
        t2 = perf_counter()
        if isinstance(envelope.message, Fault):
            return envelope.message
        result = expect(envelope.message, Result)
        call.encoding.delivered(result.instance, parts)
        value = call.value_of(envelope)
        return value, call.finish(result, perf_counter() - t2)

    def _last_of_stream(
        self, call: Call, frame: EncodedFrame, following: Following, check: Check | None
    ) -> Envelope:
        """What ends the run; its progress is passed on meanwhile."""
        request = call.message.request
        with closing(self._exchanges.follow("sample", request, frame, self._options.call, check)) as replies:
            for envelope, size in replies:
                call.bytes_down += size
                if not isinstance(envelope.message, Progress):
                    return envelope
                following.progress(envelope)
                if check is not None:  # steps may come faster than a transport looks for an interrupt
                    check()
        raise ConnectionLostError("The worker's stream ended before the run did.")


def _log(text: str) -> None:
    logger.info("%s", text)
