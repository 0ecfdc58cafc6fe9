"""Weight patches: how a call names them, and how they are uploaded."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ...io.dtypes import TORCH_DTYPES
from .base import ANY_SEQUENCE, Digest, Extended, Identifier, Message, Strides, TorchDtype

_Strength = Annotated[float, Field(allow_inf_nan=False)]


class PatchRef(Message):
    """Names patches to a model's weights that a `Define` made known.

    Attributes:
        template: its digest.
        strengths: pairs that the template refers to by position: of a patch, and of what it is added to.
    """

    template: Digest
    strengths: Annotated[
        tuple[Annotated[tuple[_Strength, _Strength], ANY_SEQUENCE], ...], ANY_SEQUENCE, Field(max_length=65_536)
    ]


# Of one run: each may keep as much as the model's weights at the worker.
MAX_HOOK_GROUPS = 8


class HookRef(Message):
    """What hooks put on a model's weights for a call, over its `patches`; docs/protocol.md, "Hooks".

    Attributes:
        patches: None in a call that has none on, of a run whose other calls have.
        single: positions of the strengths that are float32 tensors in ComfyUI, and not Python's floats.
        group: the number of the run's group of hooks that these are. The weights are kept until others have that
            number. None where they need not be kept, since a run has but one group.
    """

    patches: PatchRef | None = None
    single: Annotated[
        tuple[Annotated[int, Field(ge=0, lt=65_536)], ...], ANY_SEQUENCE, Field(max_length=65_536)
    ] = ()
    group: Annotated[int, Field(ge=0, lt=MAX_HOOK_GROUPS)] | None = None


class WholeTensor(Extended):
    """A tensor that travels in parts.

    Attributes:
        digest: its own.
        dtype, shape: its own.
        parts: digests of tensors, one after another its bytes.
        strides: its own; None for plain ones.
    """

    later: ClassVar[str] = "strides"

    digest: Digest
    dtype: TorchDtype
    shape: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**48)], ...], ANY_SEQUENCE, Field(max_length=64)]
    parts: Annotated[tuple[Digest, ...], ANY_SEQUENCE, Field(min_length=1, max_length=65_536)]
    strides: Strides | None = None

    @property
    def size_bytes(self) -> int:
        """Of its data."""
        return math.prod(self.shape) * TORCH_DTYPES[self.dtype].itemsize


class Store(Message):
    """Uploads tensors that calls will name. The frame's tree is a list of them, each with its digest.

    `whole`: in place of tensors, asks for one to be made of parts that were uploaded. `request` names this
    exchange, and the reply repeats it.
    """

    type: Literal["store"] = "store"
    client: Identifier
    whole: WholeTensor | None = None
    request: Identifier | None = None


class Define(Message):
    """Makes a set of weight patches known. The frame's tree is its template, which names tensors by digest.

    Attributes:
        template: the digest of the tree's skeleton.
        request: names this exchange; the reply repeats it.
    """

    type: Literal["define"] = "define"
    client: Identifier
    template: Digest
    request: Identifier | None = None


class Stored(Message):
    """Answers a `Store` or a `Define`: it is kept."""

    type: Literal["stored"] = "stored"
    instance: Identifier
    request: Identifier | None = None
