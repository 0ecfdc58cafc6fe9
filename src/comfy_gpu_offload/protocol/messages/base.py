"""What all messages are made of: their base, and kinds of fields that many have."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from ...io.dtypes import TORCH_DTYPES

PROTOCOL_VERSION = 1


class Message(BaseModel):
    """Base of all messages: immutable, exact types, no unknown fields."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", protected_namespaces=())

    def fields(self) -> dict[str, Any]:
        """By name, as plain values."""
        # As model_dump, whose many options cost as much again.
        return self.__pydantic_serializer__.to_python(self, mode="python")  # type: ignore[no-any-return]


class Extended(Message):
    """A part of a message with a field of later releases, left out where it is None: older ones refuse its name."""

    later: ClassVar[str]

    @model_serializer(mode="wrap")
    def _without_later(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found: dict[str, Any] = fields(self)
        if found[self.later] is None:
            del found[self.later]
        return found


def _checked_dtype(name: str) -> str:
    if name not in TORCH_DTYPES:
        raise ValueError("not the name of a torch dtype")
    return name


MessageT = TypeVar("MessageT", bound=Message)

# msgpack knows lists and strings alone, so these two are not taken as strictly as the rest.
ANY_SEQUENCE = Field(strict=False)
ANY_STRING = Field(strict=False)

Identifier = Annotated[str, Field(min_length=8, max_length=64, pattern=r"^[0-9a-zA-Z_-]+$")]
ShortText = Annotated[str, Field(max_length=256)]
LONGEST_PATH = 4096
PathText = Annotated[str, Field(max_length=LONGEST_PATH)]
Digest = Annotated[bytes, Field(min_length=32, max_length=32)]
Strides = Annotated[
    tuple[Annotated[int, Field(ge=0, lt=2**62)], ...], ANY_SEQUENCE, Field(min_length=1, max_length=64)
]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
TorchDtype = Annotated[ShortText, AfterValidator(_checked_dtype)]
