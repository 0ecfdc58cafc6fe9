"""The options of a session, which `connect` makes of settings."""

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
    """The options of a session.

    Attributes:
        call: time-outs of one exchange.
        load_s: seconds that a model may take to load, over as many exchanges as that takes.
        comfyui: the client's own ComfyUI version, for the handshake.
        retry: the retry policy of all that the session sends.
        limits: of frames that this side takes.
        uploads_at_once: parts of an upload that are sent at the same time, and of a large reply that are fetched.
        most_reply_bytes: of the reply to a call; a larger one is fetched in parts, if the worker can keep it.
        codec: stores tensors, both ways.
        predict: whether latents may be predicted; this needs a lossless codec other than `raw`.
        begin_with: the encoding until the session has measured which is fastest, in place of `codec` and `predict`;
            None to keep those.
        capture: writes each forward call to a file; None for not.
        await_worker: whether to wait for a worker that is not there yet, as in a call, or raise an error at once.
        notify: takes lines for the user when a run waits, say for a lost worker; they are logged in any case.
    """

    call: Timeouts = field(default_factory=Timeouts)
    load_s: float = 900.0
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    codec: codecs.Codec | codecs.Chooser = codecs.RAW
    limits: FrameLimits = DEFAULT_LIMITS
    comfyui: str | None = None
    uploads_at_once: int = 4
    most_reply_bytes: int = 16 * 1024**2
    predict: bool = True
    begin_with: EncodingKind | None = None
    capture: Capture | None = None
    await_worker: bool = False
    notify: Notify | None = None
