"""The messages that client and worker exchange, each a frozen value that checks itself (docs/protocol.md).

A message is a class of its own in a module of this folder, derived from `ClientMessage` or `WorkerMessage`. All
modules of the folder are imported here, so that `KINDS` is complete. A message that only its sender and receiver
use need not be listed here: they import it from its own module.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from .base import KINDS, LONGEST_PATH, PROTOCOL_VERSION, ClientMessage, Message, MessageT, WorkerMessage
from .calls import (
    FORWARD,
    MAX_STEPS,
    Autocast,
    Cancel,
    Cancelled,
    Follow,
    Forward,
    Keep,
    Progress,
    Result,
    SampleJob,
    WorkerTimings,
)
from .derived import DerivedStep, DerivedTensor
from .faults import Fault, FaultCode
from .hello import (
    MAX_FURTHER_FILES,
    MAX_SKIPPED,
    MAX_WARNINGS,
    MODULE_FOLDERS,
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
from .parsing import expect, made, parse
from .patches import MAX_HOOK_GROUPS, Define, HookRef, PatchRef, Store, Stored, WholeTensor
from .prediction import Coded, Prediction
from .probe import Probe, Probed
from .reply_parts import MAX_PART_BYTES, Fetch, Kept, ReplyPart

__all__ = [
    "FORWARD",
    "KINDS",
    "LONGEST_PATH",
    "MAX_FURTHER_FILES",
    "MAX_HOOK_GROUPS",
    "MAX_PART_BYTES",
    "MAX_SKIPPED",
    "MAX_STEPS",
    "MAX_WARNINGS",
    "MODULE_FOLDERS",
    "PROTOCOL_VERSION",
    "WARNING_CHARACTERS",
    "Autocast",
    "Cancel",
    "Cancelled",
    "ClientMessage",
    "Coded",
    "Define",
    "DerivedStep",
    "DerivedTensor",
    "Fault",
    "FaultCode",
    "Fetch",
    "Follow",
    "Forward",
    "Hello",
    "HookRef",
    "Keep",
    "Kept",
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
    "ReplyPart",
    "Result",
    "SampleJob",
    "Skipped",
    "SkippedEntry",
    "Store",
    "Stored",
    "Welcome",
    "WholeTensor",
    "WorkerLimits",
    "WorkerMessage",
    "WorkerTimings",
    "expect",
    "made",
    "parse",
]

for _module in iter_modules(__path__):
    import_module(f".{_module.name}", __name__)
