"""Forward calls and sampling runs: what asks for them, tells of them and ends them."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field

from ...io.dtypes import TORCH_DTYPES
from .base import Identifier, Message, Seconds, ShortText
from .hello import ModelRef
from .patches import HookRef, PatchRef
from .predicted import Coded, Prediction


class Autocast(Message):
    """What `torch.autocast` does around a call.

    Attributes:
        caches: whether weights are cast once; cast copies with a gradient take other kernels.
        gradients: the mode of the caller's thread, which decides whether they have one.
    """

    dtype: Literal["bfloat16", "float16"]
    caches: bool
    gradients: Literal["on", "off", "inference"]

    @property
    def torch_dtype(self) -> torch.dtype:
        """`dtype` as torch's."""
        return TORCH_DTYPES[self.dtype]


class Forward(Message):
    """One forward call. The frame's tree holds ``(args, kwargs)``.

    `request` names the call: asked again under the same name, the worker answers without computing again.
    Fields that are None from `hooks` on are left out of the frame, for sides that know of none.

    Attributes:
        reply_strides: True where the reply's tensors are wanted with the strides they have.
        autocast: None where it is off.
    """

    type: Literal["forward"] = "forward"
    request: Identifier
    client: Identifier
    model: ModelRef
    fingerprint: Identifier
    reply_codec: ShortText
    patches: PatchRef | None = None
    hooks: HookRef | None = None
    prediction: Prediction | None = None
    reply_strides: bool | None = None
    autocast: Autocast | None = None


# As ComfyUI's samplers take; a mistyped number would keep the device for days.
MAX_STEPS = 10_000


class SampleJob(Message):
    """Asks for a whole sampling run. Fields as KSampler (Advanced) has them.

    The frame's tree is a dict: ``latent``, ``positive`` and ``negative`` always; ``noise``, ``noise_mask``,
    ``batch_index``, ``sigmas``, ``model_sampling`` and ``model_options`` where they differ from what the fields
    give.

    Attributes:
        request: names the run; a worker that has it already goes on with it.
        start_step, last_step: of `steps`; None for the first and the last.
        preview: ComfyUI's name of a preview method, or ``none``.
        reply_strides: as in `Forward`.
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
    reply_strides: bool | None = None


class Follow(Message):
    """Asks to be told on of a run that the worker has; of its progress after step `after`."""

    type: Literal["follow"] = "follow"
    request: Identifier
    after: Annotated[int, Field(ge=0)]


class Progress(Message):
    """One step of a run is done. The frame's tree holds a preview, as encoded picture bytes, or None.

    `waiting`: what the run waits for, for people to read; left out where it does not, or for a client that has not
    said that it knows of it.
    """

    type: Literal["progress"] = "progress"
    request: Identifier
    step: Annotated[int, Field(ge=0)]
    of: Annotated[int, Field(ge=0)]
    waiting: ShortText | None = None


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


class Cancel(Message):
    """Asks for a call to be ended, whether it waits or runs."""

    type: Literal["cancel"] = "cancel"
    request: Identifier


class Cancelled(Message):
    """Answers a `Cancel`: what the call was doing."""

    type: Literal["cancelled"] = "cancelled"
    request: Identifier
    state: Literal["queued", "running", "unknown"]
