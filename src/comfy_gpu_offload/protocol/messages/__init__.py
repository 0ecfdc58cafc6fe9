"""The messages, as frozen values that check themselves. docs/protocol.md says who sends which, and when."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from ...errors import MessageError
from .base import LONGEST_PATH, PROTOCOL_VERSION, Message, MessageT
from .calls import (
    MAX_STEPS,
    Autocast,
    Cancel,
    Cancelled,
    Follow,
    Forward,
    Progress,
    Result,
    SampleJob,
    WorkerTimings,
)
from .faults import Fault, FaultCode
from .hello import (
    MAX_SKIPPED,
    MAX_WARNINGS,
    WARNING_CHARACTERS,
    Hello,
    ModelDescription,
    ModelEntry,
    ModelRef,
    Skipped,
    SkippedEntry,
    Welcome,
    WorkerLimits,
)
from .patches import MAX_HOOK_GROUPS, Define, HookRef, PatchRef, Store, Stored, WholeTensor
from .predicted import Coded, Prediction
from .probe import Probe, Probed

__all__ = [
    "LONGEST_PATH",
    "MAX_HOOK_GROUPS",
    "MAX_SKIPPED",
    "MAX_STEPS",
    "MAX_WARNINGS",
    "PROTOCOL_VERSION",
    "WARNING_CHARACTERS",
    "Autocast",
    "Cancel",
    "Cancelled",
    "Coded",
    "Define",
    "Fault",
    "FaultCode",
    "Follow",
    "Forward",
    "Hello",
    "HookRef",
    "Message",
    "MessageT",
    "ModelDescription",
    "ModelEntry",
    "ModelRef",
    "PatchRef",
    "Prediction",
    "Probe",
    "Probed",
    "Progress",
    "Result",
    "SampleJob",
    "Skipped",
    "SkippedEntry",
    "Store",
    "Stored",
    "Welcome",
    "WholeTensor",
    "WorkerLimits",
    "WorkerTimings",
    "expect",
    "made",
    "parse",
]

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
        raise MessageError(f"a {kind} message that is not of its form: {_wrong(error)}") from None


def made(kind: type[MessageT], fields: Mapping[str, Any]) -> MessageT:
    """Return the message of `kind` with these fields, some of which a user gave.

    Raises:
        MessageError: one is not of its form; names it and what it may be.
    """
    try:
        return kind(**fields)
    except ValidationError as error:
        raise MessageError(_wrong(error)) from None


def _wrong(error: ValidationError) -> str:
    # Names and reasons only: the values may be a user's.
    return "; ".join(f"{'.'.join(map(str, e['loc'])):.80}: {e['msg']}" for e in error.errors()[:5])


def expect(message: Message, kind: type[MessageT]) -> MessageT:
    """`message`, which must be of `kind`.

    Raises:
        MessageError: it is of another.
    """
    if not isinstance(message, kind):
        raise MessageError(f"a {type(message).__name__} came where a {kind.__name__} belongs")
    return message
