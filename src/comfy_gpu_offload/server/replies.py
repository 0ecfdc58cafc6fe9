"""How whatever a frame asks for ends in a frame: the job's reply, or a fault."""

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
"""Waits for what a frame asked for and gives the reply."""

_UNEXPECTED = {FaultCode.INTERNAL, FaultCode.MODEL_FAILED}


def answered(
    turn: Turn, job: Callable[[float], EncodedFrame], failed: Callable[[], None] = lambda: None
) -> EncodedFrame:
    """The job's reply when its turn has come; one that fails or does not run is answered with a fault.

    `failed` is called before that.
    """
    try:
        return turn.run(job)
    except Exception as error:  # the other of the two places: see `Handler`
        failed()
        return refusal(error, turn.name)


def refusal(error: BaseException, request: str | None = None) -> EncodedFrame:
    """The fault that answers `error`; the log says of it what a client need not know.

    `request`: of what is answered, where that could be read.
    """
    fault = fault_of(error)
    if fault.code in _UNEXPECTED:
        logger.error("answered with the fault %s:\n%s", fault.code.value, places(error))
        if isinstance(error, ModelFileError):  # of a file, and of nothing that a client sent
            logger.error("%s", error)
    else:
        logger.info("answered with the fault %s", fault.code.value)
    return seal(fault.model_copy(update={"request": request}))


def prepared(compute: Callable[[], Computed]) -> Computed:
    """Return what `compute` gives, with all that it took besides computing as the time to get ready.

    A first run also imports and compiles: a client would take that for the network's time.
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
    """What is said of a result. `waited`: seconds of reading the frame, and in the queue."""
    decode_s, queue_s = waited
    timings = WorkerTimings(decode_s=decode_s, queue_s=queue_s, load_s=done.load_s, compute_s=done.compute_s)
    if logger.isEnabledFor(logging.DEBUG):
        told = (message.request, timings.queue_s, timings.load_s, timings.compute_s)
        logger.debug("request %s: queue %.4f s, load %.3f s, compute %.4f s", *told)
    return Result(request=message.request, instance=instance, timings=timings, prediction=coded)


def reply_codec(name: str) -> codecs.Codec | codecs.Chooser:
    """The codec that a reply is asked for by.

    Raises:
        MessageError: it is not known here.
    """
    try:
        return codecs.wanted(name)
    except CodecError as error:
        raise MessageError(str(error)) from error


def on_a_thread(work: Callable[[], None], name: str) -> None:
    """Does the work on a thread of its own; on this one where the system has no more."""
    try:
        threading.Thread(target=work, name=f"comfy-gpu-offload-{name}", daemon=True).start()
    except RuntimeError:  # a place in the queue that nobody takes would hold up all others
        work()
