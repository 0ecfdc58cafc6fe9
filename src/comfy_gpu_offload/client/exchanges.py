"""The exchanges of a session: every frame is sent here, and every reply is checked here first."""

from __future__ import annotations

import secrets
from collections.abc import Generator
from contextlib import closing

from ..errors import WrongReplyError
from ..io.buffers import Buffer
from ..io.frame import EncodedFrame, FrameLimits
from ..protocol.envelope import Envelope
from ..protocol.messages import Fault
from ..transport.base import Check, Route, Timeouts, Transport
from .worker_faults import opened


def new_request() -> str:
    """Return a random name for a request, which no other request of any process has."""
    return secrets.token_hex(16)


class Exchanges:
    """Sends frames to the worker and opens the replies. Thread-safe.

    A reply names the request that it answers, and is used for no other. Otherwise two processes that share a
    connection, or a proxy that mixes replies up, would give one call the tensors of another without an error.
    """

    def __init__(self, transport: Transport, limits: FrameLimits) -> None:
        self._transport = transport
        self._limits = limits

    @property
    def peer(self) -> str:
        """The name of the other end, for errors."""
        return self._transport.peer

    @property
    def carries_cancel(self) -> bool:
        """True if a call is cancelled by a message of its own."""
        return self._transport.carries_cancel

    def ask(
        self, route: Route, request: str, frame: EncodedFrame, timeouts: Timeouts, check: Check | None = None
    ) -> tuple[Envelope, int]:
        """Send `frame`, which holds the request named `request`; return the reply and its size in bytes.

        Raises:
            TransportError: no reply came, or one to another request.
            FrameError, MessageError: the reply is malformed.
        """
        reply = self._transport.exchange(route, frame, timeouts, check)
        return self._checked(reply, request), len(reply)

    def follow(
        self, route: Route, request: str, frame: EncodedFrame, timeouts: Timeouts, check: Check | None = None
    ) -> Generator[tuple[Envelope, int]]:
        """Send `frame` and yield the replies as they come, each with its size in bytes.

        Raises:
            As `ask`.
        """
        with closing(self._transport.stream(route, frame, timeouts, check)) as replies:
            for reply in replies:
                yield self._checked(reply, request), len(reply)

    def _checked(self, reply: Buffer, request: str) -> Envelope:
        envelope = opened(reply, self._limits)
        answered = envelope.request
        # A worker that could not read a request cannot name it.
        if answered == request or (answered is None and isinstance(envelope.message, Fault)):
            return envelope
        self._transport.close()  # further replies may be waiting on any of its connections
        raise WrongReplyError(
            "The worker's reply answers another request than the one that was made, and was not used. Is the "
            "connection shared by two processes, or does a proxy in between mix replies up?"
        )
