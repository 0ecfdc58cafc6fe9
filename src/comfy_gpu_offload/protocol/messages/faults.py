"""The worker's reply to a request that it refuses or that failed."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from .base import ANY_SEQUENCE, ANY_STRING, LATER, Digest, Identifier, WorkerMessage


class FaultCode(StrEnum):
    """The reasons why a worker refuses or fails. docs/protocol.md, "Faults", has their HTTP statuses."""

    BAD_FRAME = "bad_frame"
    BAD_MESSAGE = "bad_message"
    UNSUPPORTED_PROTOCOL = "unsupported_protocol"
    UNAUTHORIZED = "unauthorized"
    UNKNOWN_MODEL = "unknown_model"
    MODEL_CHANGED = "model_changed"
    MISSING_TENSORS = "missing_tensors"
    UNKNOWN_RUN = "unknown_run"
    UNKNOWN_PUSH = "unknown_push"
    UNKNOWN_REPLY = "unknown_reply"
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
    NOT_ALLOWED = "not_allowed"
    REFUSED_FILE = "refused_file"
    DISK_FULL = "disk_full"
    DOWNLOAD_FAILED = "download_failed"
    BUSY = "busy"
    STOPPING = "stopping"
    INTERNAL = "internal"


class Fault(WorkerMessage):
    """The reply to a request that was refused or that failed.

    Attributes:
        message: for the user.
        retryable: whether the same request may succeed later.
        missing: with `missing_tensors` and `unknown_history`, the digests of the tensors that the worker lacks.
        traceback: files, lines and functions of the worker's code; never a value.
        request: of the request that is answered; None if that could not be read.
    """

    type: Literal["fault"] = "fault"
    code: Annotated[FaultCode, ANY_STRING]
    message: Annotated[str, Field(max_length=4000)]
    retryable: bool = False
    missing: Annotated[tuple[Digest, ...], ANY_SEQUENCE] = ()
    traceback: Annotated[str, Field(max_length=20_000)] | None = None
    request: Annotated[Identifier | None, LATER] = None
