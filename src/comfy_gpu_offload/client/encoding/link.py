"""Probes of the link to a worker: exchanges of noise, whose duration is measured."""

from __future__ import annotations

import secrets
from time import perf_counter

import torch

from ...io.tree import pack
from ...protocol.envelope import seal
from ...protocol.messages import Probe, Probed
from ...transport.base import Check
from ..exchanges import Exchanges, new_request
from ..options import SessionOptions
from ..retry import Retries, RetryPolicy, when_measuring
from ..worker_faults import expect_answer

# Short, because a measurement can be made later; the call that follows is more patient.
_RETRY = RetryPolicy(total_s=10.0)


class Link:
    """The link between one session and its worker."""

    def __init__(self, exchanges: Exchanges, options: SessionOptions, client: str) -> None:
        self._exchanges = exchanges
        self._options = options
        self._client = client

    def probe(self, up_bytes: int = 0, down_bytes: int = 0, *, check: Check | None = None) -> float:
        """Return the seconds of an exchange of so many bytes of noise, without the worker's own time.

        Raises:
            TransportError: the worker cannot be reached.
            WorkerFaultError: the worker refused.
        """
        noise = torch.frombuffer(bytearray(secrets.token_bytes(max(1, up_bytes))), dtype=torch.uint8)[:up_bytes]
        request = new_request()
        message = Probe(client=self._client, reply_bytes=down_bytes, request=request)
        frame = seal(message, pack(noise, "noise"))

        def attempt() -> float:
            started = perf_counter()
            envelope, _ = self._exchanges.ask("hello", request, frame, self._options.call, check)
            elapsed = perf_counter() - started
            return max(0.0, elapsed - expect_answer(envelope.message, Probed).worker_s)

        return Retries(_RETRY, when_measuring, check).run(attempt)
