"""How two sides introduce themselves, and what a worker has."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from ...io.dtypes import TORCH_DTYPES
from .base import ANY_SEQUENCE, PROTOCOL_VERSION, Identifier, Message, PathText, ShortText, TorchDtype


class ModelRef(Message):
    """Which model, loaded how. `weight_dtype` as in ComfyUI's own loader, or a torch dtype's name."""

    name: ShortText
    weight_dtype: ShortText = "default"


class ModelEntry(Message):
    """One model a worker can load. `folder`: the kind of folder it lies in; `size_bytes` of its files."""

    name: ShortText
    folder: ShortText
    size_bytes: Annotated[int, Field(ge=0)]


class SkippedEntry(Message):
    """An entry of a model folder that the worker passes over. `name` is for people to read: escaped, shortened."""

    name: ShortText
    reason: ShortText


# Enough to see what is wrong: a folder of dangling links has thousands.
MAX_SKIPPED = 20


class Skipped(Message):
    """What the worker passes over in its model folders: how many entries, and the first of them."""

    count: Annotated[int, Field(ge=1)]
    entries: Annotated[tuple[SkippedEntry, ...], ANY_SEQUENCE, Field(max_length=MAX_SKIPPED)]


# Of what a worker's ComfyUI warns of.
MAX_WARNINGS = 8
WARNING_CHARACTERS = 240


class ModelDescription(Message):
    """A model as its worker has it.

    Attributes:
        fingerprint: changes when the file does.
        compute_dtype: the torch dtype that the model computes in, e.g. ``bfloat16``.
        warnings: what was warned of when it was loaded; left out of the frame where there are none.
    """

    ref: ModelRef
    fingerprint: Identifier
    compute_dtype: TorchDtype
    warnings: Annotated[
        tuple[Annotated[str, Field(max_length=WARNING_CHARACTERS)], ...],
        ANY_SEQUENCE,
        Field(max_length=MAX_WARNINGS),
    ] = ()

    @model_serializer(mode="wrap")
    def _without_no_warnings(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = write(self)
        if not self.warnings:
            del fields["warnings"]
        return fields

    @property
    def dtype(self) -> torch.dtype:
        """`compute_dtype` as torch's."""
        return TORCH_DTYPES[self.compute_dtype]


class Hello(Message):
    """Opens a session; with `model`, also asks for that model to be loaded and described.

    `request` names this exchange, and the welcome repeats it.
    """

    type: Literal["hello"] = "hello"
    protocol: int = PROTOCOL_VERSION
    client: Identifier
    package: ShortText
    torch: ShortText
    comfyui: ShortText | None = None
    codecs: Annotated[tuple[ShortText, ...], ANY_SEQUENCE]
    model: ModelRef | None = None
    request: Identifier | None = None


class WorkerLimits(Message):
    """What the worker accepts, in bytes."""

    frame_bytes: Annotated[int, Field(gt=0)]
    store_bytes: Annotated[int, Field(ge=0)]


class Welcome(Message):
    """Answers a `Hello`. `instance` names this start of the worker: a new one holds no tensors.

    With a model asked for, the frame's tree holds what its backend has to say of it (docs/protocol.md).
    `folders` are those that it looks for models in, said where it has found none. Both they and `skipped` are left
    out of the frame where there is nothing to say, for sides that know of none.
    """

    type: Literal["welcome"] = "welcome"
    protocol: int = PROTOCOL_VERSION
    instance: Identifier
    package: ShortText
    torch: ShortText
    comfyui: ShortText | None
    backend: ShortText
    device: ShortText
    codecs: Annotated[tuple[ShortText, ...], ANY_SEQUENCE]
    limits: WorkerLimits
    models: Annotated[tuple[ModelEntry, ...], ANY_SEQUENCE]
    skipped: Skipped | None = None
    folders: Annotated[tuple[PathText, ...], ANY_SEQUENCE] | None = None
    model: ModelDescription | None = None
    request: Identifier | None = None
