"""What the link is measured by."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .base import Identifier, Message, Seconds


class Probe(Message):
    """Asks for `reply_bytes` of noise, to measure the link. Waits its turn as a forward call does.

    The frame's tree may hold anything: it is what the way up is measured with. `request` names this exchange, and
    the reply repeats it.
    """

    type: Literal["probe"] = "probe"
    client: Identifier
    reply_bytes: Annotated[int, Field(ge=0, le=64 * 1024**2)]
    request: Identifier | None = None


class Probed(Message):
    """Answers a `Probe`. The frame's tree holds the noise, one uint8 tensor.

    Attributes:
        worker_s: what the worker spent on it, waiting included; not the link's.
    """

    type: Literal["probed"] = "probed"
    worker_s: Seconds
    request: Identifier | None = None
