"""How a session introduces itself to its worker, and asks it for a model."""

from __future__ import annotations

import logging
from dataclasses import replace
from time import monotonic
from typing import Any

import torch

from ..errors import ConnectError, HttpStatusError, MessageError, NoWorkerError, TooLargeError, TransportError
from ..io import codecs
from ..io.frame import EncodedFrame
from ..protocol.abilities import ABILITIES
from ..protocol.envelope import seal
from ..protocol.messages import FaultCode, Hello, ModelDescription, ModelRef, Welcome
from ..transport.base import Check, Timeouts, Transport
from ..version import __version__
from .faults import expect_answer, opened
from .options import SessionOptions
from .retry import Patience, RetryPolicy

logger = logging.getLogger(__name__)


class Handshake:
    """What one session says of itself, and what its worker said last. Thread-safe.

    Attributes:
        welcome: what the worker last said of itself.
    """

    def __init__(self, transport: Transport, options: SessionOptions, client: str, check: Check | None) -> None:
        """Says hello; again where a proxy answers for a worker that is still starting.

        Raises:
            TransportError: the worker cannot be reached.
            WorkerFaultError: it refused.
        """
        self._transport = transport
        self._options = options
        self._client = client
        self.welcome = self._through_proxies(check)

    def renew(self) -> Welcome:
        """Says hello again, for a welcome that is new.

        Raises:
            As the first time.
        """
        self.welcome, _ = self._hello(None, self._options.call, None)
        return self.welcome

    def load(self, ref: ModelRef, check: Check | None) -> tuple[ModelDescription, Any]:
        """Asks for a model until it is loaded: a proxy may end the request sooner, and the worker goes on.

        Raises:
            TransportError: the worker cannot be reached.
            WorkerFaultError: it has no such model, or cannot load it.
        """
        patience = Patience(RetryPolicy(total_s=self._options.load_s), check)
        deadline = monotonic() + self._options.load_s
        while True:
            try:
                welcome, details = self._hello(ref, self._load_timeouts(deadline), check)
            except TransportError as error:
                if not error.retryable or isinstance(error, NoWorkerError | ConnectError) or not patience.wait():
                    raise
                logger.info("The model is not loaded yet and is asked for again: %s", error)
                continue
            if welcome.model is None:
                raise MessageError("the worker's welcome lacks the model that was asked for")
            return welcome.model, details

    def refuse_too_large(self, frame: EncodedFrame) -> None:
        """Raises TooLargeError where the worker does not take frames of that size."""
        limit = self.welcome.limits.frame_bytes
        if frame.size_bytes > limit:
            raise TooLargeError(
                f"This call takes {frame.size_bytes} bytes, over the {limit} bytes allowed by the worker "
                "(COMFY_GPU_OFFLOAD_FRAME_BYTES there).",
                code=FaultCode.TOO_LARGE.value,
            )

    def _through_proxies(self, check: Check | None) -> Welcome:
        patience = Patience(self._options.retry, check)
        while True:
            try:
                return self._hello(None, self._options.call, check)[0]
            except HttpStatusError as error:
                if not error.retryable or isinstance(error, NoWorkerError) or not patience.wait():
                    raise
                logger.info("The worker is not there yet and is tried again: %s", error)

    def _load_timeouts(self, deadline: float) -> Timeouts:
        left = max(1.0, deadline - monotonic())
        longest = self._options.exchange_limit_s
        return replace(self._options.call, exchange_s=left if longest is None else min(left, longest))

    def _hello(self, ref: ModelRef | None, timeouts: Timeouts, check: Check | None) -> tuple[Welcome, Any]:
        hello = Hello(
            client=self._client,
            package=__version__,
            torch=torch.__version__,
            comfyui=self._options.comfyui,
            codecs=(*codecs.names(), *ABILITIES),
            model=ref,
        )
        reply = self._transport.exchange("hello", seal(hello), timeouts, check)
        envelope = opened(reply, self._options.limits)
        return expect_answer(envelope.message, Welcome, self._transport.peer), envelope.unpack()
