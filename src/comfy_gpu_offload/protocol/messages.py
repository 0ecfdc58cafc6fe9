"""The messages, as frozen values that check themselves. docs/protocol.md says who sends which, and when."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Annotated, Any, Literal, TypeVar

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from ..errors import MessageError
from ..io.dtypes import TORCH_DTYPES

PROTOCOL_VERSION = 1

Identifier = Annotated[str, Field(min_length=8, max_length=64, pattern=r"^[0-9a-zA-Z_-]+$")]
ShortText = Annotated[str, Field(max_length=256)]
Digest = Annotated[bytes, Field(min_length=32, max_length=32)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
# msgpack knows lists and strings alone, so these two are not taken as strictly as the rest.
_ANY_SEQUENCE = Field(strict=False)
_ANY_STRING = Field(strict=False)


class FaultCode(StrEnum):
    """Why a worker refused or failed. The HTTP status that goes with each is in docs/protocol.md."""

    BAD_FRAME = "bad_frame"
    BAD_MESSAGE = "bad_message"
    UNSUPPORTED_PROTOCOL = "unsupported_protocol"
    UNAUTHORIZED = "unauthorized"
    UNKNOWN_MODEL = "unknown_model"
    MODEL_CHANGED = "model_changed"
    MISSING_TENSORS = "missing_tensors"
    UNKNOWN_RUN = "unknown_run"
    UNKNOWN_PATCHES = "unknown_patches"
    BAD_PATCHES = "bad_patches"
    UNKNOWN_HISTORY = "unknown_history"
    WRONG_PREDICTION = "wrong_prediction"
    WRONG_DIGEST = "wrong_digest"
    TOO_LARGE = "too_large"
    CANCELLED = "cancelled"
    OUT_OF_MEMORY = "out_of_memory"
    MODEL_FAILED = "model_failed"
    UNSUPPORTED_RESULT = "unsupported_result"
    BUSY = "busy"
    STOPPING = "stopping"
    INTERNAL = "internal"


class Message(BaseModel):
    """Base of all messages: immutable, exact types, no unknown fields."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", protected_namespaces=())

    def fields(self) -> dict[str, Any]:
        """By name, as plain values."""
        # As model_dump, whose many options cost as much again.
        return self.__pydantic_serializer__.to_python(self, mode="python")  # type: ignore[no-any-return]


class ModelRef(Message):
    """Which model, loaded how. `weight_dtype` as in ComfyUI's own loader, or a torch dtype's name."""

    name: ShortText
    weight_dtype: ShortText = "default"


class ModelEntry(Message):
    """One model a worker can load. `folder`: the kind of folder it lies in; `size_bytes` of its files."""

    name: ShortText
    folder: ShortText
    size_bytes: Annotated[int, Field(ge=0)]


def _checked_dtype(name: str) -> str:
    if name not in TORCH_DTYPES:
        raise ValueError("not the name of a torch dtype")
    return name


class ModelDescription(Message):
    """A model as its worker has it.

    Attributes:
        fingerprint: changes when the file does.
        compute_dtype: the torch dtype that the model computes in, e.g. ``bfloat16``.
    """

    ref: ModelRef
    fingerprint: Identifier
    compute_dtype: Annotated[ShortText, AfterValidator(_checked_dtype)]

    @property
    def dtype(self) -> torch.dtype:
        """`compute_dtype` as torch's."""
        return TORCH_DTYPES[self.compute_dtype]


class Hello(Message):
    """Opens a session; with `model`, also asks for that model to be loaded and described."""

    type: Literal["hello"] = "hello"
    protocol: int = PROTOCOL_VERSION
    client: Identifier
    package: ShortText
    torch: ShortText
    comfyui: ShortText | None = None
    codecs: Annotated[tuple[ShortText, ...], _ANY_SEQUENCE]
    model: ModelRef | None = None


class WorkerLimits(Message):
    """What the worker accepts, in bytes."""

    frame_bytes: Annotated[int, Field(gt=0)]
    store_bytes: Annotated[int, Field(ge=0)]


class Welcome(Message):
    """Answers a `Hello`. `instance` names this start of the worker: a new one holds no tensors.

    With a model asked for, the frame's tree holds what its backend has to say of it (docs/protocol.md).
    """

    type: Literal["welcome"] = "welcome"
    protocol: int = PROTOCOL_VERSION
    instance: Identifier
    package: ShortText
    torch: ShortText
    comfyui: ShortText | None
    backend: ShortText
    device: ShortText
    codecs: Annotated[tuple[ShortText, ...], _ANY_SEQUENCE]
    limits: WorkerLimits
    models: Annotated[tuple[ModelEntry, ...], _ANY_SEQUENCE]
    model: ModelDescription | None = None


_Strength = Annotated[float, Field(allow_inf_nan=False)]


class PatchRef(Message):
    """Names patches to a model's weights that a `Define` made known.

    Attributes:
        template: its digest.
        strengths: pairs that the template refers to by position: of a patch, and of what it is added to.
    """

    template: Digest
    strengths: Annotated[
        tuple[Annotated[tuple[_Strength, _Strength], _ANY_SEQUENCE], ...], _ANY_SEQUENCE, Field(max_length=65_536)
    ]


_Bytes = Annotated[int, Field(ge=0, lt=2**48)]


class Coded(Message):
    """What a tensor is made of, with a history; docs/prediction.md. The frame has the payloads in its place.

    Attributes:
        dtype, shape: its own; `dtype` as safetensors names it.
        kept: of an input, a bit for each channel that is as in the call before; empty where none is.
        coefficients: of each part's prediction, float32, little-endian.
        sizes: of each part's payload, in bytes.
        digest: XXH3, 128 bit, of its data.
    """

    dtype: Literal["BF16", "F16", "F32"]
    shape: Annotated[
        tuple[Annotated[int, Field(ge=1, lt=2**48)], ...], _ANY_SEQUENCE, Field(min_length=1, max_length=64)
    ]
    kept: Annotated[bytes, Field(max_length=65_536)] = b""
    coefficients: Annotated[
        tuple[Annotated[bytes, Field(min_length=4, max_length=1024)], ...], _ANY_SEQUENCE, Field(max_length=8)
    ]
    sizes: Annotated[tuple[_Bytes, ...], _ANY_SEQUENCE, Field(max_length=8)]
    digest: Annotated[bytes, Field(min_length=16, max_length=16)]


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


class Forward(Message):
    """One forward call. The frame's tree holds ``(args, kwargs)``.

    `request` names the call: asked again under the same name, the worker answers without computing again.
    `prediction` is left out of the frame where there is none, for sides that know of none.
    """

    type: Literal["forward"] = "forward"
    request: Identifier
    client: Identifier
    model: ModelRef
    fingerprint: Identifier
    reply_codec: ShortText
    patches: PatchRef | None = None
    prediction: Prediction | None = None


class WorkerTimings(Message):
    """Where the worker's time went, in seconds."""

    decode_s: Seconds = 0.0
    queue_s: Seconds = 0.0
    load_s: Seconds = 0.0
    compute_s: Seconds = 0.0


class Result(Message):
    """Answers a `Forward`, or ends a run. The tree holds what the model returned, or the run's latent.

    `prediction`: what the first tensor is made of, where the frame holds its payload; left out where it does not.
    """

    type: Literal["result"] = "result"
    request: Identifier
    instance: Identifier
    timings: WorkerTimings
    prediction: Coded | None = None


class SampleJob(Message):
    """Asks for a whole sampling run. Fields as KSampler (Advanced) has them.

    The frame's tree is a dict: ``latent``, ``positive`` and ``negative`` always; ``noise``, ``noise_mask``,
    ``batch_index``, ``sigmas``, ``model_sampling`` and ``model_options`` where they differ from what the fields
    give.

    Attributes:
        request: names the run; a worker that has it already goes on with it.
        start_step, last_step: of `steps`; None for the first and the last.
        preview: ComfyUI's name of a preview method, or ``none``.
    """

    type: Literal["sample"] = "sample"
    request: Identifier
    client: Identifier
    model: ModelRef
    fingerprint: Identifier
    reply_codec: ShortText
    sampler: ShortText
    scheduler: ShortText
    seed: Annotated[int, Field(ge=0, lt=2**64)]
    steps: Annotated[int, Field(ge=1, le=10_000)]
    cfg: Annotated[float, Field(allow_inf_nan=False)]
    denoise: Annotated[float, Field(ge=0, le=1)] = 1.0
    start_step: Annotated[int, Field(ge=0, le=10_000)] | None = None
    last_step: Annotated[int, Field(ge=0, le=10_000)] | None = None
    force_full_denoise: bool = False
    disable_noise: bool = False
    preview: ShortText = "none"
    patches: PatchRef | None = None


class Follow(Message):
    """Asks to be told on of a run that the worker has; of its progress after step `after`."""

    type: Literal["follow"] = "follow"
    request: Identifier
    after: Annotated[int, Field(ge=0)]


class Progress(Message):
    """One step of a run is done. The frame's tree holds a preview, as encoded picture bytes, or None."""

    type: Literal["progress"] = "progress"
    request: Identifier
    step: Annotated[int, Field(ge=0)]
    of: Annotated[int, Field(ge=0)]


class WholeTensor(Message):
    """A tensor that travels in parts.

    Attributes:
        digest: its own.
        dtype, shape: its own.
        parts: digests of uint8 tensors, one after another its bytes.
    """

    digest: Digest
    dtype: Annotated[ShortText, AfterValidator(_checked_dtype)]
    shape: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**48)], ...], _ANY_SEQUENCE, Field(max_length=64)]
    parts: Annotated[tuple[Digest, ...], _ANY_SEQUENCE, Field(min_length=1, max_length=65_536)]

    @property
    def size_bytes(self) -> int:
        """Of its data."""
        return math.prod(self.shape) * TORCH_DTYPES[self.dtype].itemsize


class Store(Message):
    """Uploads tensors that calls will name. The frame's tree is a list of them, each with its digest.

    `whole`: in place of tensors, asks for one to be made of parts that were uploaded.
    """

    type: Literal["store"] = "store"
    client: Identifier
    whole: WholeTensor | None = None


class Define(Message):
    """Makes a set of weight patches known. The frame's tree is its template, which names tensors by digest.

    Attributes:
        template: the digest of the tree's skeleton.
    """

    type: Literal["define"] = "define"
    client: Identifier
    template: Digest


class Stored(Message):
    """Answers a `Store` or a `Define`: it is kept."""

    type: Literal["stored"] = "stored"
    instance: Identifier


class Probe(Message):
    """Asks for `reply_bytes` of noise, to measure the link. Waits its turn as a forward call does.

    The frame's tree may hold anything: it is what the way up is measured with.
    """

    type: Literal["probe"] = "probe"
    client: Identifier
    reply_bytes: Annotated[int, Field(ge=0, le=64 * 1024**2)]


class Probed(Message):
    """Answers a `Probe`. The frame's tree holds the noise, one uint8 tensor.

    Attributes:
        worker_s: what the worker spent on it, waiting included; not the link's.
    """

    type: Literal["probed"] = "probed"
    worker_s: Seconds


class Fault(Message):
    """Answers anything that went wrong.

    Attributes:
        retryable: whether the same request may succeed later.
        missing: digests the worker lacks, with `missing_tensors` and `unknown_history`.
        traceback: where in the worker's code; file, line and function, never a value.
    """

    type: Literal["fault"] = "fault"
    code: Annotated[FaultCode, _ANY_STRING]
    message: Annotated[str, Field(max_length=4000)]
    retryable: bool = False
    missing: Annotated[tuple[Digest, ...], _ANY_SEQUENCE] = ()
    traceback: Annotated[str, Field(max_length=20_000)] | None = None


class Cancel(Message):
    """Asks for a call to be ended, whether it waits or runs."""

    type: Literal["cancel"] = "cancel"
    request: Identifier


class Cancelled(Message):
    """Answers a `Cancel`: what the call was doing."""

    type: Literal["cancelled"] = "cancelled"
    request: Identifier
    state: Literal["queued", "running", "unknown"]


_KINDS: dict[str, type[Message]] = {
    "hello": Hello,
    "welcome": Welcome,
    "forward": Forward,
    "result": Result,
    "sample": SampleJob,
    "follow": Follow,
    "progress": Progress,
    "store": Store,
    "define": Define,
    "stored": Stored,
    "probe": Probe,
    "probed": Probed,
    "fault": Fault,
    "cancel": Cancel,
    "cancelled": Cancelled,
}

MessageT = TypeVar("MessageT", bound=Message)


def parse(fields: dict[str, Any]) -> Message:
    """The message that these fields are.

    Raises:
        MessageError: of no known type, or its fields are not that type's.
    """
    kind = fields.get("type")
    model = _KINDS.get(kind) if isinstance(kind, str) else None
    if model is None:
        raise MessageError(f"a message of the unknown type {kind!r:.40}")
    try:
        return model.__pydantic_validator__.validate_python(fields)  # type: ignore[no-any-return]
    except ValidationError as error:
        # Names and reasons only: the values may be a user's.
        wrong = "; ".join(f"{'.'.join(map(str, e['loc'])):.80}: {e['msg']}" for e in error.errors()[:5])
        raise MessageError(f"a {kind} message that is not of its form: {wrong}") from None


def expect(message: Message, kind: type[MessageT]) -> MessageT:
    """`message`, which must be of `kind`.

    Raises:
        MessageError: it is of another.
    """
    if not isinstance(message, kind):
        raise MessageError(f"a {type(message).__name__} came where a {kind.__name__} belongs")
    return message
