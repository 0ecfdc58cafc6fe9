"""The worker over HTTP: `/ping` and `/v1/…`, frames as octet streams. docs/protocol.md lists the routes."""

from __future__ import annotations

import asyncio
import hmac
import logging
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass

from aiohttp import hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import Payload
from pydantic import SecretStr

from ..errors import FrameError
from ..io.buffers import allocate
from ..io.frame import PRELUDE, EncodedFrame, FrameLimits, frame_size
from ..protocol.envelope import open_frame, seal
from ..protocol.messages import Fault, FaultCode
from .faults import fault_of
from .handler import Handler

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/octet-stream"
# Reading a frame takes about a millisecond for each 10 MB; beyond that it would hold up the event loop.
_DECODE_ASIDE_BYTES = 8 * 1024**2

_STATUS: dict[FaultCode, int] = {
    FaultCode.BAD_FRAME: 400,
    FaultCode.BAD_MESSAGE: 400,
    FaultCode.UNSUPPORTED_PROTOCOL: 400,
    FaultCode.WRONG_DIGEST: 400,
    FaultCode.UNAUTHORIZED: 401,
    FaultCode.UNKNOWN_MODEL: 404,
    FaultCode.MODEL_CHANGED: 409,
    FaultCode.MISSING_TENSORS: 409,
    FaultCode.TOO_LARGE: 413,
    FaultCode.CANCELLED: 499,
    FaultCode.BUSY: 503,
    FaultCode.STOPPING: 503,
    FaultCode.OUT_OF_MEMORY: 507,
}


@dataclass
class WorkerState:
    """What the routes serve. `handler` is None while the backend is being made."""

    limits: FrameLimits
    token: SecretStr | None = None
    handler: Handler | None = None


class Routes:
    """The worker's routes, for an application of its own or on another's."""

    def __init__(self, state: WorkerState) -> None:
        self._state = state

    def definitions(self) -> list[web.RouteDef]:
        """What to add to a router. Bodies are read here, whatever limit the application has."""
        return [
            web.get("/ping", self.ping),
            web.post("/v1/{route:hello|forward|cancel}", self.frame),
        ]

    async def ping(self, _: web.Request) -> web.Response:
        """200 when ready, 204 while warming: RunPod's contract. Needs no token, says nothing else."""
        if self._state.handler is None:
            return web.Response(status=204)
        return web.json_response({"status": "ready"})

    async def frame(self, request: web.Request) -> web.Response:
        """One frame in, one frame out."""
        if not self._authorized(request):
            fault = Fault(
                code=FaultCode.UNAUTHORIZED,
                message="The token is wrong or missing: set COMFY_GPU_OFFLOAD_TOKEN to the worker's.",
            )
            return _answer(seal(fault), 401)
        handler = self._state.handler
        if handler is None:
            fault = Fault(code=FaultCode.BUSY, message="The worker is still starting.", retryable=True)
            return _answer(seal(fault), 503)
        try:
            body = await self._read(request)
        except FrameError as error:
            return _answer_fault(fault_of(error))
        frame = await _submitted(handler, body)
        return _answer(frame, _status_of(frame))

    def _authorized(self, request: web.Request) -> bool:
        if self._state.token is None:
            return True
        scheme, _, given = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        wanted = self._state.token.get_secret_value().encode()
        return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), wanted)

    async def _read(self, request: web.Request) -> memoryview:
        """The body, into one buffer that is allocated only once the frame's own lengths were found good."""
        try:
            prelude = await request.content.readexactly(PRELUDE.size)
        except asyncio.IncompleteReadError as error:
            raise FrameError("truncated", f"{len(error.partial)} bytes are no frame") from error
        size = frame_size(prelude, self._state.limits)
        if request.content_length is not None and request.content_length != size:
            name = "truncated" if request.content_length < size else "trailing_bytes"
            raise FrameError(name, f"the request has {request.content_length} bytes, the frame claims {size}")
        body = allocate(size)
        body[: PRELUDE.size] = prelude
        filled = PRELUDE.size
        async for chunk, _ in request.content.iter_chunks():
            if filled + len(chunk) > size:
                raise FrameError("trailing_bytes", f"more than the {size} bytes the frame claims")
            body[filled : filled + len(chunk)] = chunk
            filled += len(chunk)
        if filled < size:
            raise FrameError("truncated", f"{filled} bytes of the {size} it claims")
        return body


async def _submitted(handler: Handler, body: memoryview) -> EncodedFrame:
    if len(body) > _DECODE_ASIDE_BYTES:
        return await _result(await asyncio.to_thread(handler.submit, body))
    return await _result(handler.submit(body))


async def _result(future: Future[EncodedFrame]) -> EncodedFrame:
    """The future's result. Not `asyncio.wrap_future`: a request that ends must not cancel a shared reply."""
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[EncodedFrame] = loop.create_future()

    def settle() -> None:
        if not waiter.done():
            waiter.set_result(future.result())

    def finished(_: Future[EncodedFrame]) -> None:
        with suppress(RuntimeError):  # the loop has been closed: nobody waits any more
            loop.call_soon_threadsafe(settle)

    future.add_done_callback(finished)
    return await waiter


def _answer_fault(fault: Fault) -> web.Response:
    return _answer(seal(fault), _STATUS.get(fault.code, 500))


class _FramePayload(Payload):
    """A frame's buffers as a response's body: sent from their own memory, the first one along with the headers."""

    _value: EncodedFrame

    def __init__(self, frame: EncodedFrame) -> None:
        super().__init__(frame, content_type=MEDIA_TYPE)
        self._size = frame.size_bytes

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """No text.

        Raises:
            TypeError: always.
        """
        raise TypeError("a frame is no text")

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Writes the whole frame."""
        for buffer in self._value.buffers:
            await writer.write(buffer)

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        """Writes the whole frame, whose length is the response's."""
        await self.write(writer)


def _answer(frame: EncodedFrame, status: int) -> web.Response:
    return web.Response(body=_FramePayload(frame), status=status)


def _status_of(frame: EncodedFrame) -> int:
    # A fault carries no tensors, so it is one small buffer; anything else is a success.
    if len(frame.buffers) > 1:
        return 200
    message = open_frame(frame.buffers[0]).message
    return _STATUS.get(message.code, 500) if isinstance(message, Fault) else 200
