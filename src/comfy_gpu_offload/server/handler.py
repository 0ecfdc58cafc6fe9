"""A frame in, a frame out: all of a worker but its sockets."""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import torch

from ..errors import CodecError, FrameError, MessageError
from ..io import codecs, tree
from ..io.buffers import Buffer
from ..io.digests import digest
from ..io.frame import EncodedFrame, FrameLimits, Part, Received
from ..protocol import history
from ..protocol.envelope import Envelope, open_frame, seal, seal_parts
from ..protocol.messages import (
    Cancel,
    Cancelled,
    Define,
    Fault,
    FaultCode,
    Follow,
    Forward,
    Hello,
    Probe,
    Probed,
    Progress,
    Result,
    SampleJob,
    Store,
    Stored,
    Welcome,
    WorkerLimits,
    WorkerTimings,
)
from ..version import __version__
from .backends.base import Backend, Computed, Described
from .blob_folder import BlobFolder
from .executor import Executor, Turn
from .faults import RefusedError, fault_of, places
from .histories import Histories, Tracked, unknown_history
from .replies import ReplyCache
from .runs import Run, RunStore, Step
from .store import BlobStore
from .uploads import Uploads

logger = logging.getLogger(__name__)

# Waits for what a frame asked for and gives the reply.
_Finish = Callable[[], EncodedFrame]
_UNEXPECTED = {FaultCode.INTERNAL, FaultCode.MODEL_FAILED}


@dataclass(frozen=True)
class HandlerOptions:
    """Bytes: the largest frame accepted, and what the store may keep in memory; where uploads are kept besides."""

    limits: FrameLimits = field(default_factory=FrameLimits)
    store_bytes: int = 2 * 1024**3
    uploads: BlobFolder | None = None


class Handler:
    """Answers frames for one backend. Thread-safe; every reply is a frame, faults included."""

    def __init__(self, backend: Backend, options: HandlerOptions | None = None) -> None:
        self.options = options or HandlerOptions()
        self.instance = secrets.token_hex(16)
        self._backend = backend
        self._executor = Executor(backend.clear_interrupt)
        self._store = BlobStore(self.options.store_bytes)
        self._uploads = Uploads(self._store, self.options.uploads)
        self._replies = ReplyCache()
        self._histories = Histories()
        self._runs = RunStore()

    def handle(self, buffer: Buffer) -> EncodedFrame:
        """The reply to one frame. Never fails: what goes wrong is answered with a fault.

        The model runs on the calling thread, when its turn has come.
        """
        return self._begin(buffer)()

    def submit(self, buffer: Buffer) -> Future[EncodedFrame]:
        """The same without waiting: the call has its place in the queue, and a thread of its own."""
        finish = self._begin(buffer)
        reply: Future[EncodedFrame] = Future()

        def run() -> None:
            try:
                frame = finish()
            except BaseException as error:  # for whoever waits for it
                reply.set_exception(error)
            else:
                reply.set_result(frame)

        try:
            threading.Thread(target=run, name="comfy-gpu-offload-call", daemon=True).start()
        except RuntimeError:  # no more threads; a place in the queue that nobody takes would hold up all others
            run()
        return reply

    def stream(self, buffer: Buffer) -> Iterator[EncodedFrame]:
        """The replies to a frame that asks for a sampling run, or to go on with one. The last one ends it.

        The run goes on when nobody takes them, and can be asked for again.
        """
        started = perf_counter()
        try:
            envelope = open_frame(buffer, self.options.limits)
            run, request, after = self._run_of(envelope, started)
        except Exception as error:
            yield self._refuse(error)
            return
        for item in run.follow(after):
            yield _progress(request, item) if isinstance(item, Step) else item

    def progress(self, request: str, after: int) -> tuple[int, EncodedFrame] | None:
        """How far that run has come, where that is further than step `after`: the step, and what to tell of it."""
        run = self._runs.get(request)
        latest = None if run is None else run.latest
        if latest is None or latest.step <= after:
            return None
        return latest.step, _progress(request, latest)

    def close(self, timeout_s: float | None = None) -> bool:
        """Lets the running call finish, refuses what waits, frees the models; False on a timeout."""
        finished = self._executor.close(timeout_s)
        if finished:
            self._backend.close()
        return finished

    def _begin(self, buffer: Buffer) -> _Finish:
        """Reads the frame and queues what it asks for; the result waits for it and never fails."""
        started = perf_counter()
        try:
            envelope = open_frame(buffer, self.options.limits)
            return self._dispatch(envelope, started)
        except Exception as error:  # one of two places where everything becomes a fault
            refusal = self._refuse(error)
            return lambda: refusal

    def _dispatch(self, envelope: Envelope, started: float) -> _Finish:
        message = envelope.message
        if isinstance(message, Forward):
            return self._forward(message, envelope, started)
        if isinstance(message, Hello):
            return self._hello(message)
        if isinstance(message, Cancel):
            return lambda: self._cancel(message)
        if isinstance(message, SampleJob | Follow):
            run, _, _ = self._run_of(envelope, started)
            return run.wait
        if isinstance(message, Probe):
            return self._probe(message, started)
        if isinstance(message, Store | Define):
            stored = self._keep(message, envelope)
            return lambda: stored
        raise MessageError(f"a {type(message).__name__} is nothing a client sends")

    def _hello(self, hello: Hello) -> _Finish:
        ref = hello.model
        if ref is None:
            return lambda: seal(self._welcome(None))
        logger.info("model %s (%s) asked for", ref.name, ref.weight_dtype)

        def describe(_: float) -> EncodedFrame:
            described = self._backend.describe(ref)
            return seal(self._welcome(described), tree.pack(described.details, "details"))

        turn = self._executor.enter(hello.client, secrets.token_hex(16))
        return lambda: self._run(turn, describe)

    def _probe(self, message: Probe, started: float) -> _Finish:
        def answer(_: float) -> EncodedFrame:
            noise = torch.frombuffer(bytearray(secrets.token_bytes(max(1, message.reply_bytes))), dtype=torch.uint8)
            return seal(Probed(worker_s=perf_counter() - started), tree.pack(noise[: message.reply_bytes], "noise"))

        if not message.reply_bytes:  # nothing to make: it need not wait for other clients' calls
            return lambda: answer(0.0)
        turn = self._executor.enter(message.client, secrets.token_hex(16))
        return lambda: self._run(turn, answer)

    def _keep(self, message: Store | Define, envelope: Envelope) -> EncodedFrame:
        if isinstance(message, Define):
            self._uploads.define(message.template, envelope.skeleton)
        elif message.whole is not None:
            self._uploads.join(message.whole)
        else:
            self._uploads.keep(envelope.tensors)
        return seal(Stored(instance=self.instance))

    def _run_of(self, envelope: Envelope, started: float) -> tuple[Run, str, int]:
        message = envelope.message
        if isinstance(message, Follow):
            known = self._runs.get(message.request)
            if known is None:
                text = "This worker does not have that run: it was restarted, or is another one."
                raise RefusedError(Fault(code=FaultCode.UNKNOWN_RUN, message=text, retryable=True))
            return known, message.request, message.after
        if isinstance(message, SampleJob):
            return self._sample(message, envelope, started), message.request, 0
        raise MessageError(f"a {type(message).__name__} asks for no run")

    def _sample(self, job: SampleJob, envelope: Envelope, started: float) -> Run:
        known = self._runs.get(job.request)
        if known is not None:
            return known
        codec = _reply_codec(job.reply_codec)
        patches = self._uploads.patch_set(job.patches)
        tensors = _mapping_of(tree.unpack(envelope.skeleton, self._resolve(envelope.tensors, _missing)))
        decode_s = perf_counter() - started
        run, is_new = self._runs.claim(job.request, job.steps)
        if not is_new:
            return run
        turn = self._executor.enter(job.client, job.request)

        def sample(queue_s: float) -> EncodedFrame:
            logger.info("run %s begins: %d steps of %s", job.request, job.steps, job.sampler)
            done = self._backend.sample(job, tensors, run.report, patches=patches)
            timings = WorkerTimings(
                decode_s=decode_s, queue_s=queue_s, load_s=done.load_s, compute_s=done.compute_s
            )
            return self._result(job, codec, done, timings)

        def work() -> None:
            try:
                frame = self._run(turn, sample, failed=lambda: self._runs.forget(job.request))
            except BaseException as error:  # whoever follows must see an end
                self._runs.forget(job.request)
                run.finish(self._refuse(error))
                raise
            run.finish(frame)

        try:
            threading.Thread(target=work, name="comfy-gpu-offload-run", daemon=True).start()
        except RuntimeError:  # no more threads; see `submit`
            work()
        return run

    def _welcome(self, described: Described | None) -> Welcome:
        info = self._backend.info()
        return Welcome(
            instance=self.instance,
            package=__version__,
            torch=torch.__version__,
            comfyui=info.comfyui,
            backend=info.name,
            device=info.device,
            codecs=(*codecs.names(), history.NAME),
            limits=WorkerLimits(frame_bytes=self.options.limits.frame_bytes, store_bytes=self._store.budget_bytes),
            models=tuple(self._backend.models()),
            model=None if described is None else described.description,
        )

    def _forward(self, message: Forward, envelope: Envelope, started: float) -> _Finish:
        known = self._replies.get(message.request)
        if known is not None:
            logger.debug("request %s asked for again", message.request)
            return known.result
        codec = _reply_codec(message.reply_codec)
        patches = self._uploads.patch_set(message.patches)
        knows = message.prediction is None or self._histories.knows(message.client, message.prediction)
        tensors = self._resolve(envelope.tensors, _missing if knows else unknown_history)
        tracked: Tracked | None = None
        if message.prediction is not None:
            tracked, tensors = self._histories.take(message.client, message.prediction, tensors)
        args, kwargs = _call_of(tree.unpack(envelope.skeleton, tensors))
        decode_s = perf_counter() - started

        def run(queue_s: float) -> EncodedFrame:
            logger.debug("request %s begins", message.request)
            done = self._backend.forward(message.model, message.fingerprint, args, kwargs, patches=patches)
            timings = WorkerTimings(
                decode_s=decode_s, queue_s=queue_s, load_s=done.load_s, compute_s=done.compute_s
            )
            return self._result(message, codec, done, timings, tracked)

        reply, first = self._replies.claim(message.request)
        if not first:
            return reply.result
        turn = self._executor.enter(message.client, message.request)

        def finish() -> EncodedFrame:
            try:
                frame = self._run(turn, run, failed=lambda: self._replies.forget(message.request))
            except BaseException as error:  # others may wait for it too
                self._replies.forget(message.request)
                reply.set_exception(error)
                raise
            self._replies.finish(message.client, message.request, reply, frame)
            return frame

        return finish

    def _run(
        self, turn: Turn, job: Callable[[float], EncodedFrame], failed: Callable[[], None] = lambda: None
    ) -> EncodedFrame:
        """The job's reply; one that fails or does not run is answered with a fault."""
        try:
            return turn.run(job)
        except Exception as error:  # the other of the two places
            failed()  # asked for again, it is to be computed again
            return self._refuse(error)

    def _result(
        self,
        message: Forward | SampleJob,
        codec: codecs.Codec | codecs.Chooser,
        done: Computed,
        timings: WorkerTimings,
        tracked: Tracked | None = None,
    ) -> EncodedFrame:
        packed = tree.pack(done.result, "result")
        parts = list(map(Part, packed.paths, packed.tensors))
        coded = None
        if tracked is not None:
            coded, parts = self._histories.finish(tracked, parts)
        result = Result(request=message.request, instance=self.instance, timings=timings, prediction=coded)
        frame = seal_parts(result, packed.skeleton, parts, codec)
        if logger.isEnabledFor(logging.DEBUG):
            told = (message.request, timings.queue_s, timings.load_s, timings.compute_s)
            logger.debug("request %s: queue %.4f s, load %.3f s, compute %.4f s", *told)
        return frame

    def _resolve(
        self, received: tuple[Received, ...], refusal: Callable[[tuple[bytes, ...]], Fault]
    ) -> tuple[torch.Tensor, ...]:
        """Every tensor's data; those with a digest are kept, those that are only named are looked up.

        Raises:
            RefusedError: some are not there; `refusal` makes the fault of their digests.
        """
        given = tuple([entry.tensor for entry in received if entry.digest is None and entry.tensor is not None])
        if len(given) == len(received):
            return given
        found = [self._look_up(entry) for entry in received]
        missing = tuple(
            entry.digest
            for entry, tensor in zip(received, found, strict=True)
            if tensor is None and entry.digest is not None
        )
        if missing:
            raise RefusedError(refusal(missing))
        return tuple(tensor for tensor in found if tensor is not None)

    def _look_up(self, entry: Received) -> torch.Tensor | None:
        if entry.tensor is None:
            held = None if entry.digest is None else self._store.get(entry.digest)
            if held is not None and (held.dtype, tuple(held.shape)) != (entry.dtype, entry.shape):
                raise FrameError("contradiction", f"{entry.name!r:.80} is not what its digest names")
            return held
        if entry.digest is not None:
            # Checked, because other clients will be given this tensor by that name.
            if digest(entry.tensor) != entry.digest:
                text = f"{entry.name!r:.80} does not match its digest."
                raise RefusedError(Fault(code=FaultCode.WRONG_DIGEST, message=text))
            self._store.put(entry.digest, entry.tensor)
        return entry.tensor

    def _cancel(self, message: Cancel) -> EncodedFrame:
        state = self._executor.cancel(message.request, self._backend.interrupt)
        logger.info("request %s cancelled; it was %s", message.request, state)
        return seal(Cancelled(request=message.request, state=state))

    def _refuse(self, error: BaseException) -> EncodedFrame:
        fault = fault_of(error)
        if fault.code in _UNEXPECTED:
            logger.error("answered with the fault %s:\n%s", fault.code.value, places(error))
        else:
            logger.info("answered with the fault %s", fault.code.value)
        return seal(fault)


def _missing(digests: tuple[bytes, ...]) -> Fault:
    text = f"The worker does not hold {len(digests)} of the tensors named by digest."
    return Fault(code=FaultCode.MISSING_TENSORS, message=text, retryable=True, missing=digests)


def _progress(request: str, step: Step) -> EncodedFrame:
    return seal(Progress(request=request, step=step.step, of=step.of), tree.pack(step.preview, "preview"))


def _mapping_of(value: Any) -> dict[str, Any]:
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return value
    raise MessageError("a run's tree must be a dict with names for keys")


def _reply_codec(name: str) -> codecs.Codec | codecs.Chooser:
    try:
        return codecs.wanted(name)
    except CodecError as error:
        raise MessageError(str(error)) from error


def _call_of(value: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if (
        isinstance(value, tuple)
        and len(value) == 2
        and isinstance(value[0], tuple)
        and isinstance(value[1], dict)
        and all(isinstance(key, str) for key in value[1])
    ):
        return value
    raise MessageError("a forward call's tree must be its arguments and its keyword arguments")
