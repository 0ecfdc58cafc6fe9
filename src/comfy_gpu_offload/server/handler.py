"""A frame in, a frame out: all of a worker but its sockets."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Generator
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter

from ..backends.base import Backend
from ..errors import MessageError
from ..io.buffers import Buffer
from ..io.frame import EncodedFrame, FrameLimits
from ..protocol.envelope import Envelope, open_frame, seal
from ..protocol.messages import (
    Cancel,
    Cancelled,
    Define,
    Follow,
    Forward,
    Hello,
    Probe,
    SampleJob,
    Store,
    Stored,
    WorkerLimits,
)
from .abandoned_runs import AbandonedRuns, Grace
from .blob_folder import BlobFolder
from .blob_store import BlobStore
from .call_tensors import CallTensors
from .callers import PATIENT, Caller, Waiting
from .executor import Executor, QueueLimits
from .forward_calls import ForwardCalls
from .job_replies import Finish, on_a_thread, refusal
from .probes import begin_probe
from .sampling_runs import SamplingRuns
from .self_description import Handshake
from .uploads import Uploads

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class HandlerOptions:
    """What a handler goes by.

    Attributes:
        limits: of frames.
        store_bytes: what the store may keep in memory.
        uploads: where uploads are kept besides.
        queue: of what waits for the device.
        grace: how long a run goes on that nobody follows.
    """

    limits: FrameLimits = field(default_factory=FrameLimits)
    store_bytes: int = 2 * 1024**3
    uploads: BlobFolder | None = None
    queue: QueueLimits = field(default_factory=QueueLimits)
    grace: Grace = field(default_factory=Grace)


class Handler:
    """Answers frames for one backend. Thread-safe; every reply is a frame, faults included."""

    def __init__(self, backend: Backend, options: HandlerOptions | None = None) -> None:
        self.options = options or HandlerOptions()
        self.instance = secrets.token_hex(16)
        self._backend = backend
        self._executor = Executor(backend.clear_interrupt, self.options.queue)
        store = BlobStore(self.options.store_bytes)
        tensors = CallTensors(store)
        self._uploads = Uploads(store, self.options.uploads)
        limits = WorkerLimits(frame_bytes=self.options.limits.frame_bytes, store_bytes=store.budget_bytes)
        self._handshake = Handshake(backend, self._executor, self.instance, limits)
        self._calls = ForwardCalls(backend, self._executor, tensors, self._uploads, self.instance)
        abandoned = AbandonedRuns(self._executor, backend.interrupt, self.options.grace)
        self._runs = SamplingRuns(
            backend, self._executor, tensors, self._uploads, self.instance, abandoned=abandoned
        )

    def handle(self, buffer: Buffer, caller: Caller = PATIENT) -> EncodedFrame:
        """Return the reply to one frame of `caller`. Never fails: what goes wrong is answered with a fault.

        The model runs on the calling thread, when its turn has come.
        """
        return self._begin(buffer, caller)()

    def submit(self, buffer: Buffer) -> Future[EncodedFrame]:
        """The same without waiting: the call has its place in the queue, and a thread of its own."""
        finish = self._begin(buffer, PATIENT)
        reply: Future[EncodedFrame] = Future()

        def run() -> None:
            try:
                frame = finish()
            except BaseException as error:  # for whoever waits for it
                reply.set_exception(error)
            else:
                reply.set_result(frame)

        on_a_thread(run, "call")
        return reply

    def stream(
        self, buffer: Buffer, caller: Caller = PATIENT, *, tells_waiting: bool = False
    ) -> Generator[EncodedFrame]:
        """Give the replies to a frame that asks for a sampling run, or to go on with one. The last one ends it.

        The run goes on for a while when nobody takes them, and can be asked for again. `tells_waiting`: whether
        `caller` knows of progress that says what the run waits for.
        """
        started = perf_counter()
        request = None
        try:
            envelope = open_frame(buffer, self.options.limits)
            request = envelope.request
            yield from self._runs.frames(envelope, started, caller, tells_waiting=tells_waiting)
        except Exception as error:
            yield refusal(error, request)

    def progress(self, request: str, after: int) -> tuple[int, EncodedFrame] | None:
        """How far that run has come, where that is further than step `after`: the step, and what to tell of it."""
        return self._runs.progress(request, after)

    def running(self) -> Waiting | None:
        """Return what runs now, as one who came next would be told."""
        return self._executor.running()

    def stop_running(self) -> None:
        """End the running call at the model's next block; its client may ask another worker for it."""
        self._executor.stop_running(self._backend.interrupt)

    def close(self, timeout_s: float | None = None) -> bool:
        """Lets the running call finish, refuses what waits, frees the models; False on a timeout."""
        finished = self._executor.close(timeout_s)
        if finished:
            self._backend.close()
        return finished

    def _begin(self, buffer: Buffer, caller: Caller) -> Finish:
        """Reads the frame and queues what it asks for; the result waits for it and never fails."""
        started = perf_counter()
        request = None
        try:
            envelope = open_frame(buffer, self.options.limits)
            request = envelope.request
            finish = self._dispatch(envelope, started, caller)
        except Exception as error:  # one of two places where everything becomes a fault; see `answered`
            refused = refusal(error, request)
            return lambda: refused
        return partial(_finished, finish, request)

    def _dispatch(self, envelope: Envelope, started: float, caller: Caller) -> Finish:
        message = envelope.message
        if isinstance(message, Forward):
            return self._calls.begin(message, envelope, started, caller)
        if isinstance(message, Hello):
            return self._handshake.begin(message, caller)
        if isinstance(message, Cancel):
            return lambda: self._cancel(message)
        if isinstance(message, SampleJob | Follow):
            return self._runs.begin(envelope, started)
        if isinstance(message, Probe):
            return begin_probe(self._executor, message, started, caller)
        if isinstance(message, Store | Define):
            stored = self._keep(message, envelope)
            return lambda: stored
        raise MessageError(f"a {type(message).__name__} is nothing a client sends")

    def _keep(self, message: Store | Define, envelope: Envelope) -> EncodedFrame:
        if isinstance(message, Define):
            self._uploads.define(message.template, envelope.skeleton)
        elif message.whole is not None:
            self._uploads.join(message.whole)
        else:
            self._uploads.keep(envelope.tensors)
        return seal(Stored(instance=self.instance, request=message.request))

    def _cancel(self, message: Cancel) -> EncodedFrame:
        state = self._executor.cancel(message.request, self._backend.interrupt)
        logger.info("request %s cancelled; it was %s", message.request, state)
        return seal(Cancelled(request=message.request, state=state))


def _finished(finish: Finish, request: str | None) -> EncodedFrame:
    try:
        return finish()
    except Exception as error:
        return refusal(error, request)
