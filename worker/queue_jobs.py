"""The jobs of a queue endpoint: a frame in JSON comes in, a frame in JSON goes out. Independent of RunPod's SDK.

The steps of a sampling run are sent while the job runs, as outputs of the same form.

input   {"frame": "<base64 of one frame>"}
output  {"frame": "<base64 of the reply>"}
error   {"error": "<JSON: code, message, retryable, frame>"}   a text, as RunPod shows it to users
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import Future

from comfy_gpu_offload.errors import OffloadError
from comfy_gpu_offload.io.frame import EncodedFrame
from comfy_gpu_offload.protocol.envelope import open_frame, seal
from comfy_gpu_offload.protocol.messages import Cancel, Fault, FaultCode, Follow, Forward, Hello, Message, SampleJob
from comfy_gpu_offload.server.faults import RefusedError, fault_of
from comfy_gpu_offload.server.handler import Handler

from .settings import JOB_OUTPUT_BYTES

logger = logging.getLogger(__name__)

JobOutput = dict[str, str]
# Sends an output while the job is still running.
Emit = Callable[[JobOutput], Awaitable[None]]
# A client's poll of the stream takes a quarter of a second at least; of the steps in between only the last is sent.
_TELL_EVERY_S = 0.25
# RunPod refuses larger pieces of a stream.
_PIECE_BYTES = 900_000

# The limit of /runsync, the more generous of RunPod's two routes: no job that RunPod delivers is larger.
_INPUT_BYTES = 20 * 1024**2
# {"frame": ""}, as the SDK writes it.
_OUTPUT_AROUND_BYTES = len(json.dumps({"frame": ""}))


class QueueJobs:
    """The answers to an endpoint's jobs.

    Args:
        handler: answers the frames in the jobs.
        output_bytes: the largest encoded output; RunPod loses a larger one without a word.
    """

    def __init__(self, handler: Handler, output_bytes: int = JOB_OUTPUT_BYTES) -> None:
        self._handler = handler
        self._output_bytes = output_bytes
        self._endings: set[asyncio.Task[None]] = set()

    async def answer(self, job_input: object, emit: Emit | None = None) -> JobOutput:
        """Return the output of the job with this input; an error is part of the output, as `error`.

        Args:
            emit: sends the steps of a sampling run as they are done.

        Raises:
            asyncio.CancelledError: RunPod cancelled the job, or its time is up; the model's call is ended too.
        """
        try:
            frame = _frame_of(job_input)
            telling = None if emit is None else asyncio.ensure_future(self._tell(frame, emit))
            try:
                reply = await self._reply(frame)
            finally:
                if telling is not None:
                    telling.cancel()
            return self._output(reply, frame)
        except Exception as error:  # the SDK would log an exception's text, and show it to the user
            fault = fault_of(error)
            logger.info("a job ended with the fault %s", fault.code.value)
            return _error(fault, seal(fault))

    async def _reply(self, frame: bytes) -> EncodedFrame:
        # On a thread, since reading a large frame would block the event loop.
        submitting = asyncio.ensure_future(asyncio.to_thread(self._handler.submit, frame))
        try:
            # Shielded: if the future were cancelled, the call behind it would go on unnoticed.
            reply = await asyncio.shield(submitting)
            return await asyncio.shield(asyncio.wrap_future(reply))
        except asyncio.CancelledError:
            ending = asyncio.ensure_future(self._end(submitting, frame))
            self._endings.add(ending)
            ending.add_done_callback(self._endings.discard)
            await asyncio.shield(ending)
            raise

    async def _tell(self, frame: bytes, emit: Emit) -> None:
        """Emit the steps of a run until it ends or this is cancelled; do nothing if the frame asks for no run."""
        request = await asyncio.to_thread(_run_of, frame)
        step = 0
        while request is not None:
            await asyncio.sleep(_TELL_EVERY_S)
            latest = await asyncio.to_thread(self._handler.progress, request, step)
            if latest is None:
                continue
            step, told = latest
            if _encoded_bytes(told.size_bytes) < _PIECE_BYTES:
                await emit({"frame": _text(told)})

    async def _end(self, submitting: asyncio.Future[Future[EncodedFrame]], frame: bytes) -> None:
        """Cancel the call that `frame` asked for: it leaves the queue, or ends at the model's next block."""
        await submitting  # only then is there anything to cancel
        request = await asyncio.to_thread(_request_of, frame)
        if request is not None:
            cancel = seal(Cancel(request=request)).joined()
            await asyncio.wrap_future(await asyncio.to_thread(self._handler.submit, cancel))

    def _output(self, reply: EncodedFrame, asked: bytes) -> JobOutput:
        fault = _fault_in(reply)
        if fault is not None:
            return _error(fault, reply)
        size = _encoded_bytes(reply.size_bytes) + _OUTPUT_AROUND_BYTES
        if size > self._output_bytes:
            asked_for = _message_of(asked)
            raise _too_large(
                f"The reply takes {size / 1e6:.1f} MB as a queue job's output, and RunPod delivers "
                f"{self._output_bytes / 1e6:.1f} MB at most. {_advice(asked_for)}, or a load-balancing endpoint.",
                getattr(asked_for, "request", None),
            )
        return {"frame": _text(reply)}


def _frame_of(job_input: object) -> bytes:
    """Return the frame in a job's input.

    Raises:
        RefusedError: the input is malformed or too large.
    """
    if not isinstance(job_input, dict) or job_input.keys() != {"frame"}:
        raise _bad('A job\'s input is {"frame": "<base64 of one frame>"} and nothing else.')
    text = job_input["frame"]
    if not isinstance(text, str):
        raise _bad("The input's frame is not a text.")
    if len(text) > _INPUT_BYTES:
        raise _too_large(
            f"The input's frame takes {len(text) / 1e6:.1f} MB, more than a job can have: use a load-balancing "
            "endpoint."
        )
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _bad("The input's frame is not base64.") from error


def _advice(asked: Message | None) -> str:
    """Return advice about a reply that is too large; the caller adds the last alternative."""
    if isinstance(asked, Forward):
        return (
            "This is one step's call: let the whole loop run on the worker (Remote Sampler, offload: whole loop), "
            "use a smaller batch or picture"
        )
    if isinstance(asked, SampleJob | Follow):
        return "This is a whole loop already: use a smaller batch or picture"
    return "Use fewer models in the worker's folders" if isinstance(asked, Hello) else "Ask for less"


def _message_of(frame: bytes) -> Message | None:
    try:
        return open_frame(frame).message
    except OffloadError:
        return None


def _request_of(frame: bytes) -> str | None:
    """Return the name of the call that the frame asks for, or None if it asks for none."""
    message = _message_of(frame)
    request = getattr(message, "request", None)
    return request if isinstance(request, str) and not isinstance(message, Cancel) else None


def _run_of(frame: bytes) -> str | None:
    """Return the name of the sampling run that the frame asks for, or None if it asks for none."""
    message = _message_of(frame)
    return message.request if isinstance(message, SampleJob) else None


def _fault_in(reply: EncodedFrame) -> Fault | None:
    # A fault has no tensors, so it is one small buffer.
    if len(reply.buffers) > 1:
        return None
    message = open_frame(reply.buffers[0]).message
    return message if isinstance(message, Fault) else None


def _error(fault: Fault, frame: EncodedFrame) -> JobOutput:
    fields = {
        "code": fault.code.value,
        "message": fault.message,
        "retryable": fault.retryable,
        "frame": _text(frame),
    }
    return {"error": json.dumps(fields)}


def _text(frame: EncodedFrame) -> str:
    return base64.b64encode(frame.joined()).decode("ascii")


def _encoded_bytes(size_bytes: int) -> int:
    return (size_bytes + 2) // 3 * 4


def _bad(message: str) -> RefusedError:
    return RefusedError(Fault(code=FaultCode.BAD_MESSAGE, message=message))


def _too_large(message: str, request: str | None = None) -> RefusedError:
    return RefusedError(Fault(code=FaultCode.TOO_LARGE, message=message, request=request))
