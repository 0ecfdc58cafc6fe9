"""Messages from plain fields: those that came in a frame, and those that a user chose."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from ...errors import MessageError
from .base import KINDS, Message, MessageT


def parse(fields: dict[str, Any]) -> Message:
    """Return the message that these fields of a frame make.

    Raises:
        MessageError: the type is unknown, or the fields are not those of the type.
    """
    kind = fields.get("type")
    model = KINDS.get(kind) if isinstance(kind, str) else None
    if model is None:
        raise MessageError(f"a message of the unknown type {kind!r:.40}")
    try:
        return model.__pydantic_validator__.validate_python(fields)  # type: ignore[no-any-return]
    except ValidationError as error:
        raise MessageError(f"a malformed {kind} message: {_wrong(error)}") from None


def made(kind: type[MessageT], fields: Mapping[str, Any]) -> MessageT:
    """Return the message of the class `kind` with these fields, some of which a user chose.

    Raises:
        MessageError: a value is not allowed; names the field and what it may be.
    """
    try:
        return kind(**fields)
    except ValidationError as error:
        raise MessageError(_wrong(error)) from None


def _wrong(error: ValidationError) -> str:
    # Names and reasons only: the values may be a user's.
    return "; ".join(f"{'.'.join(map(str, e['loc'])):.80}: {e['msg']}" for e in error.errors()[:5])


def expect(message: Message, kind: type[MessageT]) -> MessageT:
    """Return `message`, which must be of the class `kind`.

    Raises:
        MessageError: it is of another class.
    """
    if not isinstance(message, kind):
        raise MessageError(f"expected a {kind.__name__}, received a {type(message).__name__}")
    return message
