"""The worker without its sockets: a request's frame goes in, the frame of the reply comes out."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import Future
from functools import partial
from time import perf_counter

from ..backends.base import Backend
from ..errors import MessageError
from ..io.buffers import Buffer
from ..io.frame import EncodedFrame
from ..protocol.envelope import open_frame
from ..protocol.messages import Cancel, ClientMessage, Hello, Message, Probe
from .answers import ANSWERS, Asked
from .lifetime import Activity
from .replies import Finish, on_a_thread, refusal
from .waiting import PATIENT, Caller, Waiting
from .worker_parts import HandlerOptions, WorkerParts

__all__ = ["Handler", "HandlerOptions"]


class Handler:
    """One worker, which answers the frames of all its clients. Thread-safe. A reply is always a frame."""

    def __init__(self, backend: Backend, options: HandlerOptions | None = None) -> None:
        self.options = options or HandlerOptions()
        self._parts = WorkerParts(backend, self.options)

    @property
    def instance(self) -> str:
        """Return the name of this start of the worker."""
        return self._parts.instance

    def handle(self, buffer: Buffer, caller: Caller = PATIENT) -> EncodedFrame:
        """Return the reply to one frame of `caller`. Never raises: an error is answered with a fault.

        The model runs on the calling thread, when its turn has come.
        """
        return self._begin(buffer, caller)()

    def submit(self, buffer: Buffer) -> Future[EncodedFrame]:
        """Return the future reply to one frame: the call enters the queue now, and waits on a thread of its own."""
        finish = self._begin(buffer, PATIENT)
        reply: Future[EncodedFrame] = Future()

        def run() -> None:
            try:
                frame = finish()
            except BaseException as error:  # for whoever waits for the future
                reply.set_exception(error)
            else:
                reply.set_result(frame)

        on_a_thread(run, "call")
        return reply

    def stream(
        self, buffer: Buffer, caller: Caller = PATIENT, *, tells_waiting: bool = False
    ) -> Generator[EncodedFrame]:
        """Yield the replies to a frame that asks for a sampling run or follows one, until a result or a fault.

        A run continues for a while when nobody takes its replies, and can be followed again.

        Args:
            tells_waiting: whether `caller` accepts progress that says what the run waits for.
        """
        started = perf_counter()
        request = None
        try:
            envelope = open_frame(buffer, self.options.limits)
            request = envelope.request
            asked = Asked(envelope, caller, started)
            with self.activity.in_use():
                yield from self._parts.runs.frames(asked, tells_waiting=tells_waiting)
        except Exception as error:
            yield refusal(error, request)

    def progress(self, request: str, after: int) -> tuple[int, EncodedFrame] | None:
        """Return the last step of the run `request` and its frame; None if there is none past step `after`."""
        return self._parts.runs.progress(request, after)

    @property
    def activity(self) -> Activity:
        """Return the record of the use that is made of the worker."""
        return self._parts.activity

    def running(self) -> Waiting | None:
        """Return what is running, in the words for a call that would come next; None while nothing is."""
        return self._parts.executor.running()

    def stop_running(self) -> None:
        """End the running call at the model's next block; its client may ask another worker for it."""
        self._parts.executor.stop_running(self._parts.backend.interrupt)

    def close(self, timeout_s: float | None = None) -> bool:
        """Let the running call finish, refuse those that wait and free the models; return False on a timeout."""
        self._parts.downloads.close()
        finished = self._parts.executor.close(timeout_s)
        self._parts.pushes.close()
        if finished:
            self._parts.backend.close()
        return finished

    def _begin(self, buffer: Buffer, caller: Caller) -> Finish:
        """Read the frame and queue what it asks for; return what waits for the reply and never raises."""
        started = perf_counter()
        request = None
        try:
            envelope = open_frame(buffer, self.options.limits)
            request = envelope.request
            message = envelope.message
            answer = ANSWERS.get(type(message)) if isinstance(message, ClientMessage) else None
            if answer is None:
                raise MessageError(f"a worker does not take a {type(message).__name__}")
            finish = answer(self._parts, message, Asked(envelope, caller, started))
            if _is_use(message):
                self.activity.use()
                finish = partial(_in_use, self.activity, finish)
        except Exception as error:  # one of two places where every error becomes a fault; the other is `answered`
            refused = refusal(error, request)
            return lambda: refused
        return partial(_finished, finish, request)


def _is_use(message: Message) -> bool:
    """Return whether a worker that is asked this is in use; a client may ask the rest again and again of itself."""
    return not (isinstance(message, Cancel | Probe) or (isinstance(message, Hello) and message.model is None))


def _in_use(activity: Activity, finish: Finish) -> EncodedFrame:
    with activity.in_use():
        return finish()


def _finished(finish: Finish, request: str | None) -> EncodedFrame:
    try:
        return finish()
    except Exception as error:
        return refusal(error, request)
