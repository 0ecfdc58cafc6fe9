"""Replies: a job's result, or the fault for its error, as the frame that answers the request."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from time import perf_counter

from ..backends.base import Computed, ModelFileError
from ..errors import CodecError, MessageError
from ..io import codecs
from ..io.frame import EncodedFrame
from ..protocol.envelope import seal
from ..protocol.messages import Coded, FaultCode, Forward, Result, SampleJob, WorkerTimings
from .executor import Turn
from .faults import fault_of, places

logger = logging.getLogger(__name__)

Finish = Callable[[], EncodedFrame]
"""Waits for what a frame asked for and returns the reply."""

_UNEXPECTED = {FaultCode.INTERNAL, FaultCode.MODEL_FAILED}


def answered(
    turn: Turn, job: Callable[[float], EncodedFrame], failed: Callable[[], None] = lambda: None
) -> EncodedFrame:
    """Return the reply of `job`, run when its turn has come, or a fault if it fails or does not run.

    Args:
        job: is given the seconds that it has waited.
        failed: called before a fault is returned.
    """
    try:
        return turn.run(job)
    except Exception as error:  # one of two places where every error becomes a fault; the other is in `Handler`
        failed()
        return refusal(error, turn.name)


def refusal(error: BaseException, request: str | None = None) -> EncodedFrame:
    """Return the frame of the fault for `error`, and log what a client need not know of it.

    Args:
        request: the name of the request, if that could be read.
    """
    fault = fault_of(error)
    if fault.code in _UNEXPECTED:
        logger.error("answered with the fault %s:\n%s", fault.code.value, places(error))
        if isinstance(error, ModelFileError):  # its text is about a file and holds nothing that a client sent
            logger.error("%s", error)
    else:
        logger.info("answered with the fault %s", fault.code.value)
    return seal(fault.model_copy(update={"request": request}))


def prepared(compute: Callable[[], Computed]) -> Computed:
    """Return what `compute` returns, with all time besides computing counted as loading.

    A first run also imports and compiles, which a client would otherwise take for the network's time.
    """
    started = perf_counter()
    done = compute()
    return replace(done, load_s=max(done.load_s, perf_counter() - started - done.compute_s))


def result_of(
    message: Forward | SampleJob,
    instance: str,
    done: Computed,
    waited: tuple[float, float],
    coded: Coded | None = None,
) -> Result:
    """Return the message of a result.

    Args:
        instance: names this start of the worker.
        waited: seconds of reading the frame, and in the queue.
        coded: describes the first tensor if it is sent as a prediction's payloads.
    """
    decode_s, queue_s = waited
    timings = WorkerTimings(decode_s=decode_s, queue_s=queue_s, load_s=done.load_s, compute_s=done.compute_s)
    if logger.isEnabledFor(logging.DEBUG):
        told = (message.request, timings.queue_s, timings.load_s, timings.compute_s)
        logger.debug("request %s: queue %.4f s, load %.3f s, compute %.4f s", *told)
    return Result(request=message.request, instance=instance, timings=timings, prediction=coded)


def reply_codec(name: str) -> codecs.Codec | codecs.Chooser:
    """Return the codec by which a client wants a reply to be stored.

    Raises:
        MessageError: this side does not know it.
    """
    try:
        return codecs.wanted(name)
    except CodecError as error:
        raise MessageError(str(error)) from error


def on_a_thread(work: Callable[[], None], name: str) -> None:
    """Do the work on a thread of its own, or on this one if no thread can be started."""
    try:
        threading.Thread(target=work, name=f"comfy-gpu-offload-{name}", daemon=True).start()
    except RuntimeError:  # a turn that nobody takes would hold up all others
        work()
