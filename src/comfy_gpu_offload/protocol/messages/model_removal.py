"""The messages by which a model file that a client brought is removed from the worker."""

from __future__ import annotations

from typing import ClassVar, Literal

from .base import ClientMessage, Identifier, ShortText, WorkerMessage


class RemoveModel(ClientMessage):
    """A request to remove a model file that a client brought. It leaves the worker's memory first.

    Attributes:
        request: names this exchange.
        folder: ComfyUI's name of the folder that the file lies in.
        name: of the file in that folder.
    """

    capability: ClassVar[str | None] = "model_push"

    type: Literal["remove_model"] = "remove_model"
    request: Identifier
    client: Identifier
    folder: ShortText
    name: ShortText


class Removed(WorkerMessage):
    """The reply to a `RemoveModel` once the file is gone.

    Attributes:
        request: of the `RemoveModel`.
        instance: names this start of the worker.
    """

    type: Literal["removed"] = "removed"
    request: Identifier
    instance: Identifier
