"""A worker's handler that can be told to alter what it says."""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Any

from tests.support.backend import FunctionBackend
from tests.support.worker import ThreadWorker

from comfy_gpu_offload.io.buffers import Buffer
from comfy_gpu_offload.io.frame import EncodedFrame
from comfy_gpu_offload.server.handler import Handler

Alter = Callable[[bytes], bytes]


class AlteringHandler:
    """See `Handler`. While `alter` is set, each reply with a tensor is what that makes of it."""

    def __init__(self, backend: FunctionBackend) -> None:
        self.backend = backend
        self.alter: Alter | None = None
        self._handler = Handler(backend)

    def put_before(self, worker: ThreadWorker) -> None:
        """Have the worker answer by this handler."""
        self._handler = worker.handler
        worker._state.handler = self  # type: ignore[assignment]

    def handle(self, buffer: Buffer, *caller: Any) -> EncodedFrame:
        return self._altered(self._handler.handle(buffer, *caller))

    def submit(self, buffer: Buffer) -> Future[EncodedFrame]:
        made: Future[EncodedFrame] = Future()

        def done(reply: Future[EncodedFrame]) -> None:
            error = reply.exception()
            if error is not None:
                made.set_exception(error)
            else:
                made.set_result(self._altered(reply.result()))

        self._handler.submit(buffer).add_done_callback(done)
        return made

    def stream(self, *arguments: Any, **named: Any) -> Generator[EncodedFrame]:
        return self._handler.stream(*arguments, **named)

    def _altered(self, reply: EncodedFrame) -> EncodedFrame:
        if self.alter is None or len(reply.buffers) < 2:
            return reply
        data = self.alter(bytes(reply.joined()))
        return EncodedFrame((data[:64], data[64:]))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handler, name)
