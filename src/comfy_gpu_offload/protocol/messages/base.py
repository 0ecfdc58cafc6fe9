"""The base classes of all messages, their registry, and the types of fields that many of them have."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from ...io.dtypes import TORCH_DTYPES

PROTOCOL_VERSION: Final = 1

KINDS: Final[dict[str, type[Message]]] = {}
"""Every message by its kind, the value of its field `type`. A class enters itself when it is defined."""


class _Later:
    """See `LATER`."""


LATER: Final = _Later()
"""Marks an optional field that is younger than its message: `Annotated[Strides | None, LATER] = None`.

The field is left out of a frame while it is None, because a peer that does not know it refuses the whole message.
docs/protocol.md, "How the protocol grows", says when such a field may be sent.
"""


class Message(BaseModel):
    """A message or a part of one: immutable, with fields of exact types; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", protected_namespaces=())

    later_fields: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Note the fields marked as `LATER`, and enter a class that has a `type` in `KINDS`."""
        super().__pydantic_init_subclass__(**kwargs)
        cls.later_fields = tuple(name for name, field in cls.model_fields.items() if LATER in field.metadata)
        if "type" in cls.model_fields:
            kind = cls.model_fields["type"].default
            if kind in KINDS:
                raise TypeError(f"{KINDS[kind].__name__} and {cls.__name__} are both messages of the type {kind!r}")
            KINDS[kind] = cls
        elif cls.later_fields and not issubclass(cls, MessagePart):
            raise TypeError(f"{cls.__name__} has fields marked as LATER: derive it from MessagePart")

    def fields(self) -> dict[str, Any]:
        """Return the fields by name, as plain values that a frame can hold."""
        # What model_dump does, whose many options cost as much again.
        found: dict[str, Any] = self.__pydantic_serializer__.to_python(self, mode="python")
        for name in self.later_fields:
            # A part has left out its own already.
            if found.get(name) is None:
                found.pop(name, None)
        return found


class ClientMessage(Message):
    """Base of the messages that a client sends. Each has a function in `server/answers/` that answers it.

    Attributes:
        capability: that a worker must have announced before it is sent the message; None for the messages that
            every worker of this version of the protocol takes.
    """

    capability: ClassVar[str | None] = None


class WorkerMessage(Message):
    """Base of the messages that a worker sends."""


class MessagePart(Message):
    """Base of the parts of messages that have `LATER` fields; these are left out where they are None or empty."""

    @model_serializer(mode="wrap")
    def _without_later_fields(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found: dict[str, Any] = write(self)
        for name in self.later_fields:
            if found[name] is None or found[name] == ():
                del found[name]
        return found


def _checked_dtype(name: str) -> str:
    if name not in TORCH_DTYPES:
        raise ValueError("not the name of a torch dtype")
    return name


MessageT = TypeVar("MessageT", bound=Message)

# msgpack has lists and strings only, so tuples and enumerations are not taken as strictly as all else.
ANY_SEQUENCE = Field(strict=False)
ANY_STRING = Field(strict=False)

Identifier = Annotated[str, Field(min_length=8, max_length=64, pattern=r"^[0-9a-zA-Z_-]+$")]
ShortText = Annotated[str, Field(max_length=256)]
LONGEST_PATH = 4096
PathText = Annotated[str, Field(max_length=LONGEST_PATH)]
Digest = Annotated[bytes, Field(min_length=32, max_length=32)]
"""The SHA-256 of a tensor or of a tree's skeleton (io.digests)."""
Strides = Annotated[
    tuple[Annotated[int, Field(ge=0, lt=2**62)], ...], ANY_SEQUENCE, Field(min_length=1, max_length=64)
]
"""A tensor's strides in elements, one for each dimension."""
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
TorchDtype = Annotated[ShortText, AfterValidator(_checked_dtype)]
"""A torch dtype by its name, e.g. ``bfloat16``."""
