"""Answers `sample` and `follow`: a sampling run is begun once, and followed by whoever asks for it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from time import perf_counter
from typing import TYPE_CHECKING, Any

from ...backends.base import Backend
from ...errors import MessageError
from ...io import tree
from ...io.frame import EncodedFrame
from ...protocol.envelope import parts_of, seal, seal_parts
from ...protocol.messages import Follow, Progress, SampleJob
from ..abandoned_runs import AbandonedRuns
from ..executor import Executor
from ..kept_results import KeptResults
from ..lifetime import Activity
from ..replies import Finish, answered, on_a_thread, prepared, refusal, reply_codec, result_of
from ..run_store import Run, RunStore, Step, unknown_run
from ..tensor_lookup import TensorLookup
from ..uploads import Uploads
from .table import Asked, answers

if TYPE_CHECKING:
    from ..worker_parts import WorkerParts

logger = logging.getLogger(__name__)


@answers(SampleJob)
def begin_sample(worker: WorkerParts, _: SampleJob, asked: Asked) -> Finish:
    """Begin the run, or find the one of that name; return what waits for its end."""
    return worker.runs.begin(asked)


@answers(Follow)
def begin_follow(worker: WorkerParts, _: Follow, asked: Asked) -> Finish:
    """Find the run; return what waits for its end."""
    return worker.runs.begin(asked)


class SamplingRuns:
    """The sampling runs of one worker, each on a thread of its own. Thread-safe.

    Args:
        instance: names this start of the worker.
        kept: keeps the latents that clients asked to be kept.
        abandoned: ends the runs that nobody follows.
        activity: is told of each run, which goes on without a follower too.
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
        abandoned: AbandonedRuns,
        activity: Activity,
    ) -> None:
        self._backend = backend
        self._executor = executor
        self._tensors = tensors
        self._uploads = uploads
        self._instance = instance
        self._kept = kept
        self._abandoned = abandoned
        self._activity = activity
        self._runs = RunStore()

    def begin(self, asked: Asked) -> Finish:
        """Begin the run that is asked for, or find it; return what waits for its end.

        Raises:
            MessageError, FrameError: the frame asks for no run.
            RefusedError: this worker lacks the run, or something for it.
        """
        run, _, _ = self._run_of(asked)
        return run.wait

    def frames(self, asked: Asked, *, tells_waiting: bool = False) -> Iterator[EncodedFrame]:
        """Begin the run or find it, and yield a frame for each step and at last the one that ends it.

        Args:
            tells_waiting: whether the caller accepts progress that says what the run waits for.

        Raises:
            As `begin`, before the first frame.
        """
        run, request, after = self._run_of(asked)
        for item in run.follow(after, asked.caller.is_gone):
            yield _progress(request, item, tells_waiting=tells_waiting) if isinstance(item, Step) else item

    def progress(self, request: str, after: int) -> tuple[int, EncodedFrame] | None:
        """Return the last step of the run `request` and its frame; None if there is none past step `after`."""
        run = self._runs.get(request)
        latest = None if run is None else run.latest
        if latest is None or latest.step <= after:
            return None
        return latest.step, _progress(request, latest)

    def _run_of(self, asked: Asked) -> tuple[Run, str, int]:
        """Return the run, its name, and the last step that the caller has seen."""
        message = asked.envelope.message
        if isinstance(message, Follow):
            known = self._runs.get(message.request)
            if known is None:
                raise unknown_run()
            return known, message.request, message.after
        if isinstance(message, SampleJob):
            return self._begun(message, asked), message.request, 0
        raise MessageError(f"a {type(message).__name__} asks for no run")

    def _begun(self, job: SampleJob, asked: Asked) -> Run:
        known = self._runs.get(job.request)
        if known is not None:
            return known
        codec = reply_codec(job.reply_codec)
        patches = self._uploads.patch_set(job.patches)
        envelope = asked.envelope
        resolved = self._tensors.resolve(envelope.tensors, derived=job.derived)
        tensors = _mapping_of(tree.unpack(envelope.skeleton, resolved))
        decode_s = perf_counter() - asked.started
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
            is_kept = job.keep_result is not None and job.reply_strides
            parts = self._kept.keep(packed) if is_kept else parts_of(packed, job.reply_strides)
            return seal_parts(result, packed.skeleton, parts, codec)

        def work() -> None:
            try:
                with self._activity.in_use():
                    frame = answered(turn, sample, failed=lambda: self._runs.forget(job.request, run))
            except BaseException as error:  # whoever follows the run must see an end
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
    raise MessageError("a run's tree must be a dict whose keys are strings")
