"""The messages that measure the link between client and worker."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .base import LATER, ClientMessage, Identifier, Seconds, WorkerMessage


class Probe(ClientMessage):
    """A request for `reply_bytes` bytes of noise. Waits for its turn as a forward call does.

    The frame's tree may hold anything: its transfer measures the upload. `request` names this exchange.
    """

    type: Literal["probe"] = "probe"
    client: Identifier
    reply_bytes: Annotated[int, Field(ge=0, le=64 * 1024**2)]
    request: Annotated[Identifier | None, LATER] = None


class Probed(WorkerMessage):
    """The reply to a `Probe`. The frame's tree holds the noise, one uint8 tensor of shape ``(reply_bytes,)``.

    Attributes:
        worker_s: seconds that the worker spent on it, in the queue and making the noise: no part of the link's.
    """

    type: Literal["probed"] = "probed"
    worker_s: Seconds
    request: Annotated[Identifier | None, LATER] = None
