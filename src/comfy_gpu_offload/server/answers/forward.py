"""Answers `forward`: each forward call is computed once, however often it is asked for."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

from ...backends.base import Backend, Computed, ModuleCall
from ...errors import MessageError
from ...io import codecs, tree
from ...io.frame import EncodedFrame
from ...protocol.envelope import Envelope, parts_of, seal, seal_parts
from ...protocol.messages import FORWARD, Forward, Kept
from ..executor import Executor, Turn
from ..faults import missing_tensors
from ..kept_results import KeptResults, call_name
from ..prediction_histories import Histories, Tracked, unknown_history
from ..replies import Finish, answered, prepared, reply_codec, result_of
from ..reply_cache import PendingReply, ReplyCache
from ..tensor_lookup import TensorLookup
from ..uploads import Uploads
from ..waiting import Caller, Waiting
from .table import Asked, answers

if TYPE_CHECKING:
    from ..worker_parts import WorkerParts

logger = logging.getLogger(__name__)

# Arguments and keyword arguments.
_Call = tuple[tuple[Any, ...], dict[str, Any]]
# Is given the seconds that the call has waited in the queue.
_Job = Callable[[float], EncodedFrame]


@answers(Forward)
def begin_forward(worker: WorkerParts, message: Forward, asked: Asked) -> Finish:
    """Queue the call, or join the one of the same name."""
    return worker.calls.begin(message, asked)


class ForwardCalls:
    """The forward calls of one worker, with their last replies and their prediction histories. Thread-safe.

    Args:
        instance: names this start of the worker.
        kept: the results that clients asked to be kept.
    """

    def __init__(
        self,
        backend: Backend,
        executor: Executor,
        tensors: TensorLookup,
        uploads: Uploads,
        instance: str,
        *,
        kept: KeptResults,
    ) -> None:
        self._backend = backend
        self._executor = executor
        self._tensors = tensors
        self._uploads = uploads
        self._instance = instance
        self._kept = kept
        self._replies = ReplyCache()
        self._histories = Histories()

    def begin(self, message: Forward, asked: Asked) -> Finish:
        """Queue the call, or join the one of the same name; return what waits for the reply.

        Raises:
            MessageError, FrameError: the frame holds no forward call.
            RefusedError: this worker lacks something for the call.
        """
        joined = self._replies.join(message.request)
        if joined is not None:
            logger.debug("request %s asked for again", message.request)
            return partial(self._joined, message, joined, asked.caller)
        self._backend.refuse_modules(message.model, message.method)
        codec = reply_codec(message.reply_codec)
        patches, hooks = self._uploads.patch_set(message.patches), self._uploads.hook_set(message.hooks)
        (args, kwargs), tracked = self._call_of(message, asked.envelope)
        call = ModuleCall(
            ref=message.model,
            fingerprint=message.fingerprint,
            args=args,
            kwargs=kwargs,
            method=message.method or FORWARD,
            patches=patches,
            hooks=hooks,
            autocast=message.autocast,
        )
        decode_s = perf_counter() - asked.started
        name = self._name_of(message, asked.envelope)
        if message.keep_result == "digests" and (known := self._recalled(message, name, codec, (decode_s, 0.0))):
            return lambda: known

        def run(queue_s: float) -> EncodedFrame:
            logger.debug("request %s begins", message.request)
            recalled = self._recalled(message, name, codec, (decode_s, queue_s))
            if recalled is not None:
                return recalled
            done = prepared(lambda: self._backend.forward(call))
            return self._result(message, codec, done, (decode_s, queue_s), tracked, name=name)

        # Asked for again while this thread was reading: only one of the two may compute.
        reply, first = self._replies.claim(message.request)
        if not first:
            return partial(self._joined, message, reply, asked.caller)
        waiting = _Joinable(asked.caller, self._replies, message.request, reply)
        turn = self._executor.enter(message.client, message.request, f"a call of {message.model.name}", waiting)
        return partial(self._answer, message, reply, turn, run)

    def reply(self, request: str) -> EncodedFrame | None:
        """Return the finished reply to the call of that name, or None if it is not kept."""
        return self._replies.finished(request)

    def _joined(self, message: Forward, reply: PendingReply, caller: Caller) -> EncodedFrame:
        """Return the reply that another request of the same name makes."""
        try:
            return self._at_once(message, reply.result(caller))
        finally:
            self._replies.leave(reply)

    def _at_once(self, message: Forward, frame: EncodedFrame) -> EncodedFrame:
        """Return the reply `frame`, or a message that it is kept if it is larger than the client takes at once."""
        if not _is_too_large(message, frame):
            return frame
        return seal(Kept(request=message.request, instance=self._instance, size_bytes=frame.size_bytes))

    def _call_of(self, message: Forward, envelope: Envelope) -> tuple[_Call, Tracked | None]:
        """Return the arguments and keyword arguments, and the call's place in its history if it has one."""
        prediction = message.prediction
        derived = message.derived
        if prediction is None:
            tensors = self._tensors.resolve(envelope.tensors, derived=derived)
            return _checked(tree.unpack(envelope.skeleton, tensors)), None
        # A refusal for a missing history also lists missing tensors, which spares the client another refusal.
        knows = self._histories.knows(message.client, prediction)
        tensors = self._tensors.resolve(envelope.tensors, missing_tensors if knows else unknown_history, derived)
        tracked, tensors = self._histories.take(message.client, prediction, tensors)
        return _checked(tree.unpack(envelope.skeleton, tensors)), tracked

    def _name_of(self, message: Forward, envelope: Envelope) -> bytes | None:
        """Return the name by which the call's result is kept; None if it is not to be given in place of another."""
        is_kept = message.keep_result is not None and message.reply_strides
        if not is_kept or not self._backend.is_repeatable(message.model, message.method):
            return None
        return call_name(message, envelope)

    def _recalled(
        self,
        message: Forward,
        name: bytes | None,
        codec: codecs.Codec | codecs.Chooser,
        waited: tuple[float, float],
    ) -> EncodedFrame | None:
        """Return the reply with the result of an earlier call of that name, or None if it is not kept."""
        found = None if name is None else self._kept.recall(name, data=message.keep_result == "data")
        if found is None:
            return None
        logger.debug("request %s is answered with what is kept", message.request)
        return seal_parts(result_of(message, self._instance, Computed(None, 0.0, 0.0), waited), *found, codec)

    def _answer(self, message: Forward, reply: PendingReply, turn: Turn, run: _Job) -> EncodedFrame:
        try:
            # A call that failed is computed again when it is asked for again.
            frame = answered(turn, run, failed=lambda: self._replies.forget(message.request, reply))
        except BaseException as error:  # other threads may wait for the reply as well
            self._replies.forget(message.request, reply)
            reply.set_exception(error)
            raise
        kept = _is_too_large(message, frame)
        self._replies.finish(message.client, message.request, reply, frame, awaited=kept)
        return self._at_once(message, frame)

    def _result(
        self,
        message: Forward,
        codec: codecs.Codec | codecs.Chooser,
        done: Computed,
        waited: tuple[float, float],
        tracked: Tracked | None,
        *,
        name: bytes | None,
    ) -> EncodedFrame:
        packed = tree.pack(done.result, "result")
        if message.keep_result is not None and message.reply_strides:
            parts = self._kept.keep(packed, name)
            # What cannot be computed again is not left here alone.
            parts = self._kept.without_data(parts) if name and message.keep_result == "digests" else parts
        else:
            parts = parts_of(packed, message.reply_strides)
        coded = None
        if tracked is not None:
            coded, parts = self._histories.finish(tracked, parts)
        return seal_parts(result_of(message, self._instance, done, waited, coded), packed.skeleton, parts, codec)


def _is_too_large(message: Forward, frame: EncodedFrame) -> bool:
    return message.most_reply_bytes is not None and frame.size_bytes > message.most_reply_bytes


@dataclass(frozen=True)
class _Joinable:
    """The caller of a call for which others, who ask for it under the same name, may wait as well."""

    caller: Caller
    replies: ReplyCache
    request: str
    reply: PendingReply

    def is_gone(self) -> bool:
        """Return whether neither the caller nor anybody else waits; see `Caller`."""
        return self.caller.is_gone() and self.replies.abandon(self.request, self.reply)

    def tell(self, waiting: Waiting) -> bool:
        """Tell the caller; see `Caller`."""
        return self.caller.tell(waiting)


def _checked(value: Any) -> _Call:
    if (
        isinstance(value, tuple)
        and len(value) == 2
        and isinstance(value[0], tuple)
        and isinstance(value[1], dict)
        and all(isinstance(key, str) for key in value[1])
    ):
        return value
    raise MessageError("a forward call's tree must be its arguments and its keyword arguments")
