"""The push of a model file of this machine to the worker: in parts, several at a time, resumed after a loss."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Final

from ..errors import ModelPushError, OffloadError, WorkerFaultError
from ..io import tree
from ..protocol.envelope import seal
from ..protocol.messages import FaultCode, made
from ..protocol.messages.model_push import Pushed, PushModel, PushPart
from ..transport.base import Check
from .exchanges import Exchanges, new_request
from .handshake import Handshake
from .local_file import LocalFile
from .options import SessionOptions
from .pipeline import Pipeline
from .retry import Retries, after_any
from .worker_faults import expect_answer

logger = logging.getLogger(__name__)

OnProgress = Callable[[int, int], None]
"""Takes the bytes that are done, and those that are to be done."""

LEAST_PART_BYTES: Final = 256 * 1024
MOST_PART_BYTES: Final = 2 * 1024**2
"""Base64 of a part stays far below what RunPod's queue takes in a job (10 MB). With parts twice as large the worker
takes 126 MB of memory for a push in place of 80, and is no faster (benchmarks/model_transfer.py)."""
_FIRST_PART_BYTES: Final = 256 * 1024
_PART_S: Final = 2.0


class PartSize:
    """The size of the next part, by which it takes a few seconds: a lost connection costs the parts under way.

    Attributes:
        bytes: of the part.
    """

    def __init__(self) -> None:
        self.bytes = min(_FIRST_PART_BYTES, MOST_PART_BYTES)

    def took(self, size_bytes: int, seconds: float) -> None:
        """Note how long it took until a part of that size was at the worker."""
        fitting = int(size_bytes * _PART_S / max(seconds, 1e-6))
        self.bytes = max(LEAST_PART_BYTES, min(MOST_PART_BYTES, 2 * self.bytes, fitting))


@dataclass(frozen=True)
class FileToPush:
    """A file of this machine, and its place at the worker.

    Attributes:
        file: open.
        sha256: of the file.
        folder: ComfyUI's name of the folder that it is for.
        name: that it gets there.
    """

    file: LocalFile
    sha256: bytes
    folder: str
    name: str

    @property
    def place(self) -> dict[str, Any]:
        """Return the fields of messages that name the push."""
        return {"folder": self.folder, "name": self.name, "sha256": self.sha256}


class ModelPush:
    """One file on its way to the worker. For one thread.

    Args:
        pushed: the file.
        on_progress: takes the bytes that are at the worker.
    """

    def __init__(
        self,
        exchanges: Exchanges,
        options: SessionOptions,
        handshake: Handshake,
        pushed: FileToPush,
        on_progress: OnProgress = lambda *_: None,
    ) -> None:
        self._exchanges = exchanges
        self._options = options
        self._handshake = handshake
        self._file = pushed.file
        self._pushed = pushed
        self._on_progress = on_progress
        self._received = 0

    def run(self, check: Check | None = None) -> None:
        """Send what the worker lacks of the file, until it has the whole under its name.

        After a lost connection, or when the worker was restarted, it goes on from where the worker is.

        Raises:
            ModelPushError: the worker takes no files, or the file was changed meanwhile.
            MessageError: the folder or the name is longer than any.
            TransportError: the worker could not be reached for as long as the retry policy says.
            WorkerFaultError: it refused the file.
        """
        refuse_without_pushes(self._handshake)
        retries = Retries(self._options.retry, after_any, check, _tell)
        while True:
            try:
                self._attempt(check, retries)
            except WorkerFaultError as error:
                if error.code == FaultCode.REFUSED_FILE.value and not self._file.is_as_it_was:
                    raise self._file.changed() from error
                retries.after(error)
            except OffloadError as error:
                retries.after(error)
            else:
                return

    def _attempt(self, check: Check | None, retries: Retries) -> None:
        """Begin where the worker is, and send the rest."""
        state = self._begun(check)
        self._received = state.received
        self._on_progress(state.received, self._file.size_bytes)
        if state.is_whole:
            return
        size = PartSize()
        with Pipeline(self._options.uploads_at_once, check) as pipeline:
            begin = state.received
            while begin < self._file.size_bytes:
                part_bytes = min(size.bytes, self._file.size_bytes - begin)
                self._put(pipeline, begin, part_bytes, size, retries)
                if not begin:
                    pipeline.finish()  # by its beginning the worker tells what is no model
                # Another client may push the same file at the same time.
                begin = max(begin + part_bytes, self._received)
            pipeline.finish()

    def _begun(self, check: Check | None) -> Pushed:
        """Ask how much is at the worker, and make sure that it is the beginning of this file."""
        state = self._begin(check, restart=False)
        if state.is_whole or not state.received:
            return state
        if state.received > self._file.size_bytes or state.received_sha256 != self._file.sha256(
            check, size_bytes=state.received
        ):
            logger.warning("What the worker has of %s is not its beginning, and is sent anew", self._pushed.name)
            state = self._begin(check, restart=True)
        return state

    def _begin(self, check: Check | None, *, restart: bool) -> Pushed:
        fields = {**self._pushed.place, "size_bytes": self._file.size_bytes, "restart": restart}
        message = made(PushModel, {"request": new_request(), **fields})
        envelope, _ = self._exchanges.ask("hello", message.request, seal(message), self._options.call, check)
        return expect_answer(envelope.message, Pushed, self._exchanges.peer)

    def _put(self, pipeline: Pipeline, begin: int, part_bytes: int, size: PartSize, retries: Retries) -> None:
        answered: list[tuple[Pushed, float]] = []

        def send(check: Check) -> None:
            started = perf_counter()
            answered.append((self._send_part(begin, part_bytes, check), perf_counter() - started))

        def sent() -> None:
            ((state, seconds),) = answered
            size.took(part_bytes, seconds)
            if state.received > self._received:  # replies overtake each other
                self._received = state.received
                retries.begin_anew()
                self._on_progress(state.received, self._file.size_bytes)

        pipeline.put(send, sent)

    def _send_part(self, begin: int, part_bytes: int, check: Check) -> Pushed:
        message = made(PushPart, {"request": new_request(), **self._pushed.place, "begin": begin})
        frame = seal(message, tree.pack(self._file.part(begin, part_bytes), "part"))
        envelope, _ = self._exchanges.ask("hello", message.request, frame, self._options.call, check)
        return expect_answer(envelope.message, Pushed, self._exchanges.peer)


def refuse_without_pushes(handshake: Handshake) -> None:
    """Refuse to push to a worker that takes no files, before anything of them is read.

    Raises:
        ModelPushError: it takes none.
    """
    if PushModel.capability not in handshake.capabilities:
        raise ModelPushError(
            "The worker takes no model files: start it with --allow-downloads, or update comfy-gpu-offload there."
        )


def _tell(error: OffloadError) -> None:
    if isinstance(error, WorkerFaultError):
        logger.info("The worker does not take the file yet and is asked again: %s", error)
    else:
        logger.warning("The worker was lost in the middle of a push and is tried again: %s", error)
