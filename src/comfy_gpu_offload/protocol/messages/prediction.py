"""Predicted tensors in calls and replies, and the history that both sides keep for them (docs/prediction.md)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .base import ANY_SEQUENCE, LATER, Identifier, Message, MessagePart, Strides

_Bytes = Annotated[int, Field(ge=0, lt=2**48)]


class Coded(MessagePart):
    """A tensor that its receiver makes from a history and from the payloads that the frame holds in its place.

    Attributes:
        dtype, shape: of the tensor; `dtype` by its name in safetensors.
        kept: for an input, a bit for each channel, set if the channel is as in the call before; empty if none is.
        coefficients: of the prediction of each part, little-endian float32.
        sizes: of the payload of each part, in bytes.
        digest: of the tensor's data, XXH3 of 128 bits.
        strides: of the tensor, in elements; None if it is contiguous.
    """

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
    strides: Annotated[Strides | None, LATER] = None


class Prediction(Message):
    """The place of a call in a history that both sides keep. Also asks for a predicted reply.

    Attributes:
        history: its name, among those of its client.
        call: number of calls that the history holds before this one; 0 begins it.
        parts: number of equal parts of the call's first tensor along its first dimension.
        coded: describes that tensor if the frame holds its payloads in its place.
    """

    history: Identifier
    call: Annotated[int, Field(ge=0)]
    parts: Annotated[int, Field(ge=1, le=8)]
    coded: Coded | None = None
