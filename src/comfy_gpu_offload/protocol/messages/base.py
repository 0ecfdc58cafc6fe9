"""What all messages are made of: their base, and kinds of fields that many have."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from ...io.dtypes import TORCH_DTYPES

PROTOCOL_VERSION = 1


class Message(BaseModel):
    """Base of all messages: immutable, exact types, no unknown fields."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", protected_namespaces=())

    def fields(self) -> dict[str, Any]:
        """By name, as plain values."""
        # As model_dump, whose many options cost as much again.
        return self.__pydantic_serializer__.to_python(self, mode="python")  # type: ignore[no-any-return]


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
Digest = Annotated[bytes, Field(min_length=32, max_length=32)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
TorchDtype = Annotated[ShortText, AfterValidator(_checked_dtype)]
