"""Weight patches and hooks: how a call names them, and the messages that upload them."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from ...io.dtypes import TORCH_DTYPES
from .base import (
    ANY_SEQUENCE,
    LATER,
    ClientMessage,
    Digest,
    Identifier,
    Message,
    MessagePart,
    Strides,
    TorchDtype,
    WorkerMessage,
)

_Strength = Annotated[float, Field(allow_inf_nan=False)]


class PatchRef(Message):
    """Patches of a model's weights by name, which a `Define` has uploaded.

    Attributes:
        template: its digest.
        strengths: pairs to which the template refers by index: of a patch, and of what it is added to.
    """

    template: Digest
    strengths: Annotated[
        tuple[Annotated[tuple[_Strength, _Strength], ANY_SEQUENCE], ...], ANY_SEQUENCE, Field(max_length=65_536)
    ]


# Of one run. For each group the worker may keep as many bytes as the model's weights have.
MAX_HOOK_GROUPS = 8


class HookRef(Message):
    """Patches that a call's hooks apply to the weights after those in `patches` (docs/protocol.md, "Hooks").

    Attributes:
        patches: None in a call that has no hook switched on, of a run in which other calls do.
        single: indices of the strengths that are float32 tensors in ComfyUI, not Python floats.
        group: this group's number in a run that has several. The worker keeps a group's weights until another
            group gets its number. None in a run with a single group, whose weights stay on the model.
    """

    patches: PatchRef | None = None
    single: Annotated[
        tuple[Annotated[int, Field(ge=0, lt=65_536)], ...], ANY_SEQUENCE, Field(max_length=65_536)
    ] = ()
    group: Annotated[int, Field(ge=0, lt=MAX_HOOK_GROUPS)] | None = None


class WholeTensor(MessagePart):
    """A tensor that is uploaded in parts.

    Attributes:
        digest, dtype, shape: of the whole tensor.
        parts: digests of the uploaded tensors whose bytes, one after another, are those of the whole.
        strides: of the whole tensor, in elements; None if it is contiguous.
    """

    digest: Digest
    dtype: TorchDtype
    shape: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**48)], ...], ANY_SEQUENCE, Field(max_length=64)]
    parts: Annotated[tuple[Digest, ...], ANY_SEQUENCE, Field(min_length=1, max_length=65_536)]
    strides: Annotated[Strides | None, LATER] = None

    @property
    def size_bytes(self) -> int:
        """Return the size of the whole tensor's data."""
        return math.prod(self.shape) * TORCH_DTYPES[self.dtype].itemsize


class Store(ClientMessage):
    """An upload of tensors that calls will name; the frame has them with their digests.

    Attributes:
        whole: in place of tensors, a tensor that the worker is to join from parts uploaded before.
        request: names this exchange.
    """

    type: Literal["store"] = "store"
    client: Identifier
    whole: WholeTensor | None = None
    request: Annotated[Identifier | None, LATER] = None


class Define(ClientMessage):
    """An upload of a set of weight patches. The frame's tree is its template, which names tensors by digest.

    Attributes:
        template: the digest of the tree's skeleton.
        request: names this exchange.
    """

    type: Literal["define"] = "define"
    client: Identifier
    template: Digest
    request: Annotated[Identifier | None, LATER] = None


class Stored(WorkerMessage):
    """The reply to a `Store` or a `Define` once the worker keeps what it uploads."""

    type: Literal["stored"] = "stored"
    instance: Identifier
    request: Annotated[Identifier | None, LATER] = None
