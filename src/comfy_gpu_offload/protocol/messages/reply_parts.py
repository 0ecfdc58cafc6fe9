"""The messages by which a large reply is fetched in parts."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field

from .base import ClientMessage, Identifier, WorkerMessage

MAX_PART_BYTES: Final = 8 * 1024**2
"""The largest part that a client may ask for: within the limits of every transport."""


class Fetch(ClientMessage):
    """A request for a part of the reply to an earlier call, which the worker keeps.

    Attributes:
        request: names this exchange.
        call: names the call.
        begin: of the part, in bytes of the reply's frame.
        size_bytes: of the part.
    """

    capability: ClassVar[str | None] = "reply_parts"

    type: Literal["fetch"] = "fetch"
    request: Identifier
    call: Identifier
    begin: Annotated[int, Field(ge=0)]
    size_bytes: Annotated[int, Field(gt=0, le=MAX_PART_BYTES)]


class Kept(WorkerMessage):
    """The reply to a call whose own reply is larger than the client takes at once: the worker keeps it for `Fetch`.

    Attributes:
        request: of the call.
        instance: names this start of the worker, which alone has the reply.
        size_bytes: of the reply's frame.
    """

    type: Literal["kept"] = "kept"
    request: Identifier
    instance: Identifier
    size_bytes: Annotated[int, Field(gt=0)]


class ReplyPart(WorkerMessage):
    """The reply to a `Fetch`. The tree holds the part as one uint8 tensor.

    Attributes:
        request: of the `Fetch`.
        instance: names this start of the worker.
    """

    type: Literal["reply_part"] = "reply_part"
    request: Identifier
    instance: Identifier
