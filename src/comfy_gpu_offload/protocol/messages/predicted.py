"""What a call says of the history that both ends keep; docs/prediction.md."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from .base import ANY_SEQUENCE, Extended, Identifier, Message, Strides

_Bytes = Annotated[int, Field(ge=0, lt=2**48)]


class Coded(Extended):
    """What a tensor is made of, with a history; docs/prediction.md. The frame has the payloads in its place.

    Attributes:
        dtype, shape: its own; `dtype` as safetensors names it.
        kept: of an input, a bit for each channel that is as in the call before; empty where none is.
        coefficients: of each part's prediction, float32, little-endian.
        sizes: of each part's payload, in bytes.
        digest: XXH3, 128 bit, of its data.
        strides: its own; None for plain ones.
    """

    later: ClassVar[str] = "strides"

    dtype: Literal["BF16", "F16", "F32"]
    shape: Annotated[
        tuple[Annotated[int, Field(ge=1, lt=2**48)], ...], ANY_SEQUENCE, Field(min_length=1, max_length=64)
    ]
    kept: Annotated[bytes, Field(max_length=65_536)] = b""
    coefficients: Annotated[
        tuple[Annotated[bytes, Field(min_length=4, max_length=1024)], ...], ANY_SEQUENCE, Field(max_length=8)
    ]
    sizes: Annotated[tuple[_Bytes, ...], ANY_SEQUENCE, Field(max_length=8)]
    digest: Annotated[bytes, Field(min_length=16, max_length=16)]
    strides: Strides | None = None


class Prediction(Message):
    """What a call means for a history that both ends keep; docs/prediction.md. Asks for a predicted reply too.

    Attributes:
        history: its name, among its client's.
        call: how many calls it holds before this one; 0 begins it.
        parts: into how many equal ones the call's first tensor falls along its first dimension.
        coded: present where the frame holds that tensor's payload in its place.
    """

    history: Identifier
    call: Annotated[int, Field(ge=0)]
    parts: Annotated[int, Field(ge=1, le=8)]
    coded: Coded | None = None
