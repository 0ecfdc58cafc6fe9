"""The messages by which a client's own model file is pushed to the worker."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field

from .base import ClientMessage, Digest, Identifier, ShortText, WorkerMessage

MAX_PUSHED_PART_BYTES: Final = 8 * 1024**2
"""The largest part that a worker takes: within the limits of every transport."""

_Bytes = Annotated[int, Field(ge=0, lt=2**48)]


class PushModel(ClientMessage):
    """The beginning of a push, or its continuation: asks how much of the file is at the worker.

    Attributes:
        request: names this exchange.
        folder: ComfyUI's name of the folder that the file is for.
        name: of the file in that folder.
        sha256: of the whole file.
        size_bytes: of the whole file.
        restart: whether what has arrived so far is to be dropped, because it is the beginning of another file.
    """

    capability: ClassVar[str | None] = "model_push"

    type: Literal["push_model"] = "push_model"
    request: Identifier
    folder: ShortText
    name: ShortText
    sha256: Digest
    size_bytes: Annotated[int, Field(gt=0, lt=2**48)]
    restart: bool = False


class PushPart(ClientMessage):
    """A part of a file that is being pushed. The tree holds its bytes as one uint8 tensor.

    Attributes:
        request: names this exchange.
        folder, name, sha256: as in the `PushModel` that began the push.
        begin: of the part, in bytes of the file.
    """

    capability: ClassVar[str | None] = "model_push"

    type: Literal["push_part"] = "push_part"
    request: Identifier
    folder: ShortText
    name: ShortText
    sha256: Digest
    begin: _Bytes


class Pushed(WorkerMessage):
    """The reply to a `PushModel` and to a `PushPart`.

    Attributes:
        request: of the message that is answered.
        instance: names this start of the worker.
        received: bytes of the file that the worker has, from its beginning.
        received_sha256: of these bytes; only in the reply to a `PushModel`, while they are not the whole file.
        is_whole: whether the file is complete, checked, and in its place under its name.
    """

    type: Literal["pushed"] = "pushed"
    request: Identifier
    instance: Identifier
    received: _Bytes
    received_sha256: Digest | None = None
    is_whole: bool = False
