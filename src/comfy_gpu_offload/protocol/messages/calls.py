"""Forward calls and sampling runs: the messages that ask for them, report on them and end them."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import torch
from pydantic import Field

from ...io.dtypes import TORCH_DTYPES
from .base import ANY_SEQUENCE, LATER, ClientMessage, Identifier, Message, Seconds, ShortText, WorkerMessage
from .derived import MOST_DERIVED, DerivedTensor
from .hello import ModelRef
from .patches import HookRef, PatchRef
from .prediction import Coded, Prediction


class Autocast(Message):
    """The state of `torch.autocast` around a call.

    Attributes:
        dtype: that weights and inputs are cast to.
        caches: whether cast weights are kept; cast copies with a gradient use other kernels.
        gradients: the gradient mode of the caller's thread, which decides whether the copies have one.
    """

    dtype: Literal["bfloat16", "float16"]
    caches: bool
    gradients: Literal["on", "off", "inference"]

    @property
    def torch_dtype(self) -> torch.dtype:
        """Return `dtype` as a torch dtype."""
        return TORCH_DTYPES[self.dtype]


FORWARD: Final = "forward"
"""The method of a call that names none."""

Keep = Literal["digests", "data"]
"""Asks the worker to keep the tensors of a result by their digests, and says what the reply has of them."""

_Derived = Annotated[tuple[DerivedTensor, ...], ANY_SEQUENCE, Field(max_length=MOST_DERIVED)]


class Forward(ClientMessage):
    """A request for one call of a model or another module. The frame's tree holds ``(args, kwargs)``.

    Attributes:
        request: names the call; asked again under the same name, the worker answers without computing again.
        client: names the session, among which the worker is fair.
        fingerprint: of the model that the client was told of; the worker refuses another.
        reply_codec: by which the reply's tensors are stored.
        reply_strides: True if the reply's tensors are to keep their strides.
        autocast: None while it is off.
        method: the name of the method to call, one that the worker lists for this kind of module; None for the
            forward pass.
        most_reply_bytes: a larger reply is kept, to be fetched in parts; None for a reply in one frame.
        keep_result: whether the worker is to keep the result's tensors by their digests, and what the reply has of
            them; None for not.
        derived: tensors of the frame that come without data, and which the worker makes of those that it keeps.
    """

    type: Literal["forward"] = "forward"
    request: Identifier
    client: Identifier
    model: ModelRef
    fingerprint: Identifier
    reply_codec: ShortText
    patches: PatchRef | None = None
    hooks: Annotated[HookRef | None, LATER] = None
    prediction: Annotated[Prediction | None, LATER] = None
    reply_strides: Annotated[bool | None, LATER] = None
    autocast: Annotated[Autocast | None, LATER] = None
    method: Annotated[ShortText | None, LATER] = None
    most_reply_bytes: Annotated[Annotated[int, Field(gt=0)] | None, LATER] = None
    keep_result: Annotated[Keep | None, LATER] = None
    derived: Annotated[_Derived | None, LATER] = None


# The limit of ComfyUI's samplers; a mistyped number would occupy the device for days.
MAX_STEPS = 10_000


class SampleJob(ClientMessage):
    """A request for a whole sampling run, with the fields of KSampler (Advanced).

    The frame's tree is a dict: ``latent``, ``positive`` and ``negative`` always; ``noise``, ``noise_mask``,
    ``batch_index``, ``sigmas``, ``model_sampling`` and ``model_options`` where they differ from what the fields
    give.

    Attributes:
        request: names the run; a worker that has it already continues it.
        start_step, last_step: of `steps`; None for the first and the last.
        preview: ComfyUI's name of a preview method, or ``none``.
        reply_strides, keep_result, derived: as in `Forward`.
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
    steps: Annotated[int, Field(ge=1, le=MAX_STEPS)]
    cfg: Annotated[float, Field(allow_inf_nan=False)]
    denoise: Annotated[float, Field(ge=0, le=1)] = 1.0
    start_step: Annotated[int, Field(ge=0, le=MAX_STEPS)] | None = None
    last_step: Annotated[int, Field(ge=0, le=MAX_STEPS)] | None = None
    force_full_denoise: bool = False
    disable_noise: bool = False
    preview: ShortText = "none"
    patches: PatchRef | None = None
    reply_strides: Annotated[bool | None, LATER] = None
    keep_result: Annotated[Literal["data"] | None, LATER] = None
    derived: Annotated[_Derived | None, LATER] = None


class Follow(ClientMessage):
    """A request for the progress after step `after`, and the end, of a run that the worker has."""

    type: Literal["follow"] = "follow"
    request: Identifier
    after: Annotated[int, Field(ge=0)]


class Progress(WorkerMessage):
    """Step `step` of `of` of a run is done. The frame's tree holds a preview as JPEG bytes, or None.

    Attributes:
        waiting: a sentence about the calls that the run waits for; only for a client that asked for it
            (docs/protocol.md, "Waiting").
    """

    type: Literal["progress"] = "progress"
    request: Identifier
    step: Annotated[int, Field(ge=0)]
    of: Annotated[int, Field(ge=0)]
    waiting: Annotated[ShortText | None, LATER] = None


class WorkerTimings(Message):
    """Times that the worker spent on a call, in seconds: reading the frame, in the queue, loading, computing."""

    decode_s: Seconds = 0.0
    queue_s: Seconds = 0.0
    load_s: Seconds = 0.0
    compute_s: Seconds = 0.0


class Result(WorkerMessage):
    """The reply to a `Forward`, or the end of a run. The tree holds what the model returned, or the run's latent.

    Attributes:
        instance: names this start of the worker.
        prediction: describes the first tensor if the frame holds a predicted tensor's payload in its place.
    """

    type: Literal["result"] = "result"
    request: Identifier
    instance: Identifier
    timings: WorkerTimings
    prediction: Annotated[Coded | None, LATER] = None


class Cancel(ClientMessage):
    """A request to end a call, whether it waits or runs. `request` is the call's."""

    type: Literal["cancel"] = "cancel"
    request: Identifier


class Cancelled(WorkerMessage):
    """The reply to a `Cancel`. `state`: of the call when it was cancelled."""

    type: Literal["cancelled"] = "cancelled"
    request: Identifier
    state: Literal["queued", "running", "unknown"]
