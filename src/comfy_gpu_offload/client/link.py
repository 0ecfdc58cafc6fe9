"""The link to a worker, as an exchange of noise measures it."""

from __future__ import annotations

import secrets
from time import perf_counter

import torch

from ..io.tree import pack
from ..protocol.envelope import seal
from ..protocol.messages import Probe, Probed
from ..transport.base import Check, Transport
from .faults import expect_answer, opened
from .options import SessionOptions


class Link:
    """What lies between one session and its worker."""

    def __init__(self, transport: Transport, options: SessionOptions, client: str) -> None:
        self._transport = transport
        self._options = options
        self._client = client

    def probe(self, up_bytes: int = 0, down_bytes: int = 0, *, check: Check | None = None) -> float:
        """Seconds that so many bytes of noise take to the worker and from it, without what the worker spends.

        Raises:
            TransportError: the worker cannot be reached.
            WorkerFaultError: it refused.
        """
        noise = torch.frombuffer(bytearray(secrets.token_bytes(max(1, up_bytes))), dtype=torch.uint8)[:up_bytes]
        frame = seal(Probe(client=self._client, reply_bytes=down_bytes), pack(noise, "noise"))
        started = perf_counter()
        reply = self._transport.exchange("hello", frame, self._options.call, check)
        elapsed = perf_counter() - started
        probed = expect_answer(opened(reply, self._options.limits).message, Probed)
        return max(0.0, elapsed - probed.worker_s)
