"""What went wrong at the worker."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from .base import ANY_SEQUENCE, ANY_STRING, Digest, Identifier, Message


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


class Fault(Message):
    """Answers anything that went wrong.

    Attributes:
        retryable: whether the same request may succeed later.
        missing: digests the worker lacks, with `missing_tensors` and `unknown_history`.
        traceback: where in the worker's code; file, line and function, never a value.
        request: of what is answered; None where that could not be read.
    """

    type: Literal["fault"] = "fault"
    code: Annotated[FaultCode, ANY_STRING]
    message: Annotated[str, Field(max_length=4000)]
    retryable: bool = False
    missing: Annotated[tuple[Digest, ...], ANY_SEQUENCE] = ()
    traceback: Annotated[str, Field(max_length=20_000)] | None = None
    request: Identifier | None = None
