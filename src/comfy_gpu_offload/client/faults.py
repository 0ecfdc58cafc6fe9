"""A worker's fault as the error that its code stands for."""

from __future__ import annotations

from ..errors import (
    CallCancelledError,
    ModelChangedError,
    ModelFailedError,
    TooLargeError,
    UnauthorizedError,
    UnknownModelError,
    VersionSkewError,
    WorkerFaultError,
)
from ..protocol.messages import Fault, FaultCode, Message, MessageT, expect

_ERRORS: dict[FaultCode, type[WorkerFaultError]] = {
    FaultCode.UNSUPPORTED_PROTOCOL: VersionSkewError,
    FaultCode.UNAUTHORIZED: UnauthorizedError,
    FaultCode.UNKNOWN_MODEL: UnknownModelError,
    FaultCode.MODEL_CHANGED: ModelChangedError,
    FaultCode.TOO_LARGE: TooLargeError,
    FaultCode.CANCELLED: CallCancelledError,
    FaultCode.OUT_OF_MEMORY: ModelFailedError,
    FaultCode.MODEL_FAILED: ModelFailedError,
}


def error_of(fault: Fault) -> WorkerFaultError:
    """The error to raise for `fault`."""
    kind = _ERRORS.get(fault.code, WorkerFaultError)
    return kind(fault.message, code=fault.code.value, worker_traceback=fault.traceback)


def expect_answer(message: Message, kind: type[MessageT]) -> MessageT:
    """`message`, which must be of `kind`.

    Raises:
        WorkerFaultError: it is a fault.
        MessageError: it is of another kind.
    """
    if isinstance(message, Fault):
        raise error_of(message)
    return expect(message, kind)
