"""Sampling runs at the worker: begun once, and followed by whoever asks."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from time import perf_counter
from typing import Any

from ..backends.base import Backend
from ..errors import MessageError
from ..io import tree
from ..io.frame import EncodedFrame
from ..protocol.envelope import Envelope, parts_of, seal, seal_parts
from ..protocol.messages import Follow, Progress, SampleJob
from .abandoned_runs import AbandonedRuns
from .call_tensors import CallTensors
from .callers import PATIENT, Caller
from .executor import Executor
from .job_replies import Finish, answered, on_a_thread, prepared, refusal, reply_codec, result_of
from .run_store import Run, RunStore, Step, unknown_run
from .uploads import Uploads

logger = logging.getLogger(__name__)


class SamplingRuns:
    """Runs sampling jobs, each on a thread of its own, and tells of them. Thread-safe.

    Args:
        instance: this start of the worker.
        abandoned: ends the runs that nobody follows.
    """

    def __init__(
        self,
        backend: Backend,
        executor: Executor,
        tensors: CallTensors,
        uploads: Uploads,
        instance: str,
        *,
        abandoned: AbandonedRuns,
    ) -> None:
        self._backend = backend
        self._executor = executor
        self._tensors = tensors
        self._uploads = uploads
        self._instance = instance
        self._abandoned = abandoned
        self._runs = RunStore()

    def begin(self, envelope: Envelope, started: float) -> Finish:
        """Begins the run that is asked for, or finds it; `started`: when its frame came.

        Raises:
            MessageError, FrameError: the frame asks for no run.
            RefusedError: this worker lacks the run, or something for it.
        """
        run, _, _ = self._run_of(envelope, started)
        return run.wait

    def frames(
        self, envelope: Envelope, started: float, caller: Caller = PATIENT, *, tells_waiting: bool = False
    ) -> Iterator[EncodedFrame]:
        """`begin`, with all that there is to tell `caller` of the run; the last one ends it.

        Raises:
            As `begin`, before anything is told.
        """
        run, request, after = self._run_of(envelope, started)
        for item in run.follow(after, caller.is_gone):
            yield _progress(request, item, tells_waiting=tells_waiting) if isinstance(item, Step) else item

    def progress(self, request: str, after: int) -> tuple[int, EncodedFrame] | None:
        """How far that run has come, where that is further than step `after`: the step, and what to tell of it."""
        run = self._runs.get(request)
        latest = None if run is None else run.latest
        if latest is None or latest.step <= after:
            return None
        return latest.step, _progress(request, latest)

    def _run_of(self, envelope: Envelope, started: float) -> tuple[Run, str, int]:
        message = envelope.message
        if isinstance(message, Follow):
            known = self._runs.get(message.request)
            if known is None:
                raise unknown_run()
            return known, message.request, message.after
        if isinstance(message, SampleJob):
            return self._sample(message, envelope, started), message.request, 0
        raise MessageError(f"a {type(message).__name__} asks for no run")

    def _sample(self, job: SampleJob, envelope: Envelope, started: float) -> Run:
        known = self._runs.get(job.request)
        if known is not None:
            return known
        codec = reply_codec(job.reply_codec)
        patches = self._uploads.patch_set(job.patches)
        tensors = _mapping_of(tree.unpack(envelope.skeleton, self._tensors.resolve(envelope.tensors)))
        decode_s = perf_counter() - started
        run, is_new = self._runs.claim(job.request, job.steps)
        if not is_new:
            return run
        turn = self._executor.enter(job.client, job.request, f"a run of {job.model.name}", run)
        self._abandoned.watch(run, turn, forget=lambda: self._runs.forget(job.request, run))

        def sample(queue_s: float) -> EncodedFrame:
            run.begins()
            logger.info("run %s begins: %d steps of %s", job.request, job.steps, job.sampler)
            done = prepared(lambda: self._backend.sample(job, tensors, run.report, patches=patches))
            result = result_of(job, self._instance, done, (decode_s, queue_s))
            packed = tree.pack(done.result, "result")
            return seal_parts(result, packed.skeleton, parts_of(packed, job.reply_strides), codec)

        def work() -> None:
            try:
                frame = answered(turn, sample, failed=lambda: self._runs.forget(job.request, run))
            except BaseException as error:  # whoever follows must see an end
                self._runs.forget(job.request, run)
                run.finish(refusal(error, job.request))
                raise
            run.finish(frame)

        on_a_thread(work, "run")
        return run


def _progress(request: str, step: Step, *, tells_waiting: bool = False) -> EncodedFrame:
    waiting = None if step.waiting is None or not tells_waiting else str(step.waiting)[:256]
    progress = Progress(request=request, step=step.step, of=step.of, waiting=waiting)
    return seal(progress, tree.pack(step.preview, "preview"))


def _mapping_of(value: Any) -> dict[str, Any]:
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return value
    raise MessageError("a run's tree must be a dict with names for keys")
