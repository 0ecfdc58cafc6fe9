"""A large reply that the worker keeps, fetched in parts: what has come stays when the connection is lost."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import torch

from ..errors import FrameError, MessageError
from ..io.buffers import allocate
from ..io.frame import FrameLimits, Part
from ..protocol.envelope import Envelope, seal
from ..protocol.messages import Fault, FaultCode, Fetch, Kept, ReplyPart, expect
from ..transport.base import Check
from .exchanges import Exchanges, new_request
from .model_call import OnReceived
from .options import SessionOptions
from .pipeline import Pipeline
from .worker_faults import opened

PART_BYTES: Final = 4 * 1024**2
"""The bytes fetched at a time: within what a queue job's output may hold."""


class FetchRefusedError(Exception):
    """The worker has refused to send a part: it does not keep the reply any more, say. Holds its fault."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault


class KeptReply:
    """One reply and what has come of it. For one thread.

    Args:
        kept: says which, and how large it is.
        limits: of frames on this side.
        sent: the parts of the call's frame, which the worker has received; kept for whoever reads the reply.

    Raises:
        FrameError: it is larger than this side takes.
    """

    def __init__(self, kept: Kept, limits: FrameLimits, sent: list[Part]) -> None:
        if kept.size_bytes > limits.frame_bytes:
            raise FrameError("frame_too_large", f"{kept.size_bytes} bytes, over the {limits.frame_bytes} allowed")
        self.sent = sent
        self._kept = kept
        self._limits = limits
        self._frame = allocate(kept.size_bytes)
        self._missing = dict.fromkeys(range(0, kept.size_bytes, PART_BYTES))
        self._left_bytes = kept.size_bytes

    @property
    def size_bytes(self) -> int:
        """Return the size of the whole."""
        return self._kept.size_bytes

    def fetch(
        self, exchanges: Exchanges, options: SessionOptions, check: Check | None, on_received: OnReceived
    ) -> Envelope:
        """Fetch what has not come yet, and return the content of the whole.

        Raises:
            FetchRefusedError: with a fault `unknown_reply` the call has to be made again.
            TransportError: a part was lost; `fetch` may be called again.
            FrameError, MessageError: the reply is malformed.
        """
        on_received(self._kept.size_bytes - self._left_bytes, self._kept.size_bytes)
        with Pipeline(options.uploads_at_once, check) as pipeline:
            for begin in list(self._missing):
                size = min(PART_BYTES, self._kept.size_bytes - begin)
                part = self._frame[begin : begin + size]

                def got(begin: int = begin, size: int = size) -> None:
                    del self._missing[begin]
                    self._left_bytes -= size
                    on_received(self._kept.size_bytes - self._left_bytes, self._kept.size_bytes)

                def ask(check: Check, begin: int = begin, part: memoryview = part) -> None:
                    self._fetch_part(exchanges, options, begin, part, check)

                pipeline.put(ask, got)
            pipeline.finish()
        envelope = opened(self._frame, self._limits)
        if envelope.request != self._kept.request:
            raise MessageError("the reply that was fetched answers another request")
        return envelope

    def _fetch_part(
        self, exchanges: Exchanges, options: SessionOptions, begin: int, into: memoryview, check: Check
    ) -> None:
        request = new_request()
        message = Fetch(request=request, call=self._kept.request, begin=begin, size_bytes=len(into))
        timeouts = replace(options.call, prompt=True)
        envelope, _ = exchanges.ask("hello", request, seal(message), timeouts, check)
        if isinstance(envelope.message, Fault):
            raise FetchRefusedError(envelope.message)
        if expect(envelope.message, ReplyPart).instance != self._kept.instance:
            text = "The reply is at a worker that was restarted, or at another one."
            raise FetchRefusedError(Fault(code=FaultCode.UNKNOWN_REPLY, message=text, retryable=True))
        part = envelope.unpack()
        if not isinstance(part, torch.Tensor) or part.dtype != torch.uint8 or tuple(part.shape) != (len(into),):
            raise MessageError("the worker sent another part of the reply than the one asked for")
        into[:] = memoryview(part.numpy())  # type: ignore[arg-type]  # an ndarray is a buffer
