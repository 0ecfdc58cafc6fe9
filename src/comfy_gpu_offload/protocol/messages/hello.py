"""The handshake: how client and worker introduce themselves, and what a worker says of its models."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field

from ...io.dtypes import TORCH_DTYPES
from .base import (
    ANY_SEQUENCE,
    LATER,
    PROTOCOL_VERSION,
    ClientMessage,
    Digest,
    Identifier,
    Message,
    MessagePart,
    PathText,
    ShortText,
    TorchDtype,
    WorkerMessage,
)

# What a side says of itself may grow without harm: the classes with extra="ignore" pass over unknown fields. All
# other messages refuse them, since a call that is understood in part gives a wrong picture.

Names = Annotated[tuple[ShortText, ...], ANY_SEQUENCE]


# ComfyUI's loaders take up to four.
MAX_FURTHER_FILES = 7
_MAX_OPTIONS = 16


class ModelRef(MessagePart):
    """A model or another module by name, and how it is loaded.

    Attributes:
        name: of its file, after the prefix of its kind (`comfyui.worker.modules`).
        weight_dtype: as in ComfyUI's loader, or a torch dtype's name.
        files: further files that are loaded together with the first one, in this order.
        options: choices of the module's loader, by name.
    """

    name: ShortText
    weight_dtype: ShortText = "default"
    files: Annotated[tuple[ShortText, ...], ANY_SEQUENCE, Field(max_length=MAX_FURTHER_FILES), LATER] = ()
    options: Annotated[
        tuple[Annotated[tuple[ShortText, ShortText], ANY_SEQUENCE], ...],
        ANY_SEQUENCE,
        Field(max_length=_MAX_OPTIONS),
        LATER,
    ] = ()

    @property
    def has_later_fields(self) -> bool:
        """Return whether only a worker with the capability ``modules`` understands it."""
        return bool(self.files or self.options)


# ComfyUI's names of folders whose files are no diffusion models.
MODULE_FOLDERS = frozenset(
    {"controlnet", "text_encoders", "vae", "vae_approx", "clip_vision", "upscale_models", "audio_encoders"}
)


class ModelEntry(MessagePart, extra="ignore"):
    """A model that a worker can load.

    Attributes:
        folder: the kind of folder that it lies in.
        size_bytes: of its files.
        sha256, source: of a file that a client brought, and where from: an address, or ``push``.
    """

    name: ShortText
    folder: ShortText
    size_bytes: Annotated[int, Field(ge=0)]
    sha256: Annotated[Digest | None, LATER] = None
    source: Annotated[Annotated[str, Field(max_length=1024)] | None, LATER] = None

    @property
    def is_model(self) -> bool:
        """Return whether its folder is one of models, and not of modules of another kind."""
        return self.folder not in MODULE_FOLDERS


class SkippedEntry(Message, extra="ignore"):
    """An entry of a model folder that the worker cannot offer. `name` is for people: escaped and shortened."""

    name: ShortText
    reason: ShortText


# Enough to see what is wrong: a folder of dangling links has thousands.
MAX_SKIPPED = 20


class Skipped(Message, extra="ignore"):
    """The entries of the model folders that the worker cannot offer: their count, and the first of them."""

    count: Annotated[int, Field(ge=1)]
    entries: Annotated[tuple[SkippedEntry, ...], ANY_SEQUENCE, Field(max_length=MAX_SKIPPED)]


# Limits of the warnings that a worker's ComfyUI logs while it loads a model.
MAX_WARNINGS = 8
WARNING_CHARACTERS = 240


class ModelDescription(MessagePart, extra="ignore"):
    """A model that a worker has loaded.

    Attributes:
        fingerprint: changes when the file does.
        compute_dtype: the torch dtype that the model computes in, e.g. ``bfloat16``.
        warnings: that were logged while it was loaded.
    """

    ref: ModelRef
    fingerprint: Identifier
    compute_dtype: TorchDtype
    warnings: Annotated[
        tuple[Annotated[str, Field(max_length=WARNING_CHARACTERS)], ...],
        ANY_SEQUENCE,
        Field(max_length=MAX_WARNINGS),
        LATER,
    ] = ()

    @property
    def dtype(self) -> torch.dtype:
        """Return `compute_dtype` as a torch dtype."""
        return TORCH_DTYPES[self.compute_dtype]


class Hello(ClientMessage, extra="ignore"):
    """The beginning of a session; with `model`, a request to load and describe that model.

    Attributes:
        package, torch, comfyui: releases of the client's side.
        codecs, capabilities: that the client knows. A client of an older release has no field `capabilities` and
            names them among the codecs (`protocol.capabilities`).
        request: names this exchange.
    """

    type: Literal["hello"] = "hello"
    protocol: int = PROTOCOL_VERSION
    client: Identifier
    package: ShortText
    torch: ShortText
    comfyui: ShortText | None = None
    codecs: Names
    capabilities: Annotated[Names | None, LATER] = None
    model: ModelRef | None = None
    request: Annotated[Identifier | None, LATER] = None


class WorkerLimits(Message, extra="ignore"):
    """Limits of the worker, in bytes: of one frame, and of all tensors that it keeps in memory by digest."""

    frame_bytes: Annotated[int, Field(gt=0)]
    store_bytes: Annotated[int, Field(ge=0)]


class Welcome(WorkerMessage, extra="ignore"):
    """The reply to a `Hello`. If that names a model, the frame's tree holds the backend's details of it.

    Attributes:
        instance: names this start of the worker: a new one holds no tensors.
        package, torch, comfyui: releases of the worker's side.
        codecs, capabilities: that the worker knows, as in `Hello`.
        folders: where the worker looks for models; only if it has found none there.
        request: of the `Hello`.
    """

    type: Literal["welcome"] = "welcome"
    protocol: int = PROTOCOL_VERSION
    instance: Identifier
    package: ShortText
    torch: ShortText
    comfyui: ShortText | None
    backend: ShortText
    device: ShortText
    codecs: Names
    capabilities: Annotated[Names | None, LATER] = None
    limits: WorkerLimits
    models: Annotated[tuple[ModelEntry, ...], ANY_SEQUENCE]
    skipped: Annotated[Skipped | None, LATER] = None
    folders: Annotated[Annotated[tuple[PathText, ...], ANY_SEQUENCE] | None, LATER] = None
    model: ModelDescription | None = None
    request: Annotated[Identifier | None, LATER] = None
