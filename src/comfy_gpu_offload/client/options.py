"""How a session behaves: what `connect` makes of settings."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..io import codecs
from ..io.frame import DEFAULT_LIMITS, FrameLimits
from ..transport.base import Notify, Timeouts
from .capture import Capture
from .encoding.step_time import EncodingKind
from .retry import RetryPolicy


@dataclass(frozen=True)
class SessionOptions:
    """How a session behaves.

    Attributes:
        call: of one exchange.
        load_s: how long a model may take to load; asked for again where one exchange is shorter than that.
        exchange_limit_s: what stands in between ends longer exchanges, or None.
        comfyui: the client's own ComfyUI version, for the handshake.
        uploads_at_once: parts of an upload that are under way together.
        codec: stores tensors, both ways.
        predict: whether latents may be predicted; this needs a lossless codec other than `raw`.
        begin_with: how tensors are encoded until the session has measured what is fastest, in place of `codec` and
            `predict`; None to stay with those.
        capture: where each forward call is left, if anywhere.
        await_worker: whether a worker that is not there yet is waited for, as in a call; else that is said at once.
        notify: told, a line at a time, what a run waits for when its worker was lost; the log is in any case.
    """

    call: Timeouts = field(default_factory=Timeouts)
    load_s: float = 900.0
    exchange_limit_s: float | None = None
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    codec: codecs.Codec | codecs.Chooser = codecs.RAW
    limits: FrameLimits = DEFAULT_LIMITS
    comfyui: str | None = None
    uploads_at_once: int = 4
    predict: bool = True
    begin_with: EncodingKind | None = None
    capture: Capture | None = None
    await_worker: bool = False
    notify: Notify | None = None
