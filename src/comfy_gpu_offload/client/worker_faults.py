"""Errors for the faults that a worker answers with, and for replies that were damaged on their way."""

from __future__ import annotations

from ..errors import (
    CallCancelledError,
    ConnectionLostError,
    FrameError,
    ModelChangedError,
    ModelFailedError,
    TooLargeError,
    UnauthorizedError,
    UnknownModelError,
    VersionSkewError,
    WorkerBusyError,
    WorkerFaultError,
    WorkerMemoryError,
)
from ..io.buffers import Buffer
from ..io.frame import ALTERED, FrameLimits
from ..protocol.envelope import Envelope, open_frame
from ..protocol.messages import Fault, FaultCode, Message, MessageT, expect

_ERRORS: dict[FaultCode, type[WorkerFaultError]] = {
    FaultCode.UNSUPPORTED_PROTOCOL: VersionSkewError,
    FaultCode.UNAUTHORIZED: UnauthorizedError,
    FaultCode.UNKNOWN_MODEL: UnknownModelError,
    FaultCode.MODEL_CHANGED: ModelChangedError,
    FaultCode.TOO_LARGE: TooLargeError,
    FaultCode.CANCELLED: CallCancelledError,
    FaultCode.BUSY: WorkerBusyError,
    FaultCode.OUT_OF_MEMORY: WorkerMemoryError,
    FaultCode.MODEL_FAILED: ModelFailedError,
}


def opened(reply: Buffer, limits: FrameLimits) -> Envelope:
    """Return the message and tensors of a reply.

    Raises:
        ConnectionLostError: the reply was damaged on its way; it is asked for again as after a lost connection.
        FrameError, MessageError: as `open_frame`.
    """
    try:
        return open_frame(reply, limits)
    except FrameError as error:
        if error.malformation == ALTERED:
            raise ConnectionLostError(f"The worker's reply is damaged ({error}).") from error
        raise


def error_of(fault: Fault, peer: str = "") -> WorkerFaultError:
    """Return the error for `fault`. Its message names `peer`, the other end, if that is given."""
    kind = _ERRORS.get(fault.code, WorkerFaultError)
    text = f"The worker at {peer}: {fault.message}" if peer else fault.message
    return kind(
        text,
        code=fault.code.value,
        worker_traceback=fault.traceback,
        retryable=fault.retryable,
        unread=fault.request is None,
    )


def expect_answer(message: Message, kind: type[MessageT], peer: str = "") -> MessageT:
    """Return `message`, which must be of `kind`. An error names `peer`, the other end.

    Raises:
        WorkerFaultError: it is a fault.
        MessageError: it is of another kind.
    """
    if isinstance(message, Fault):
        raise error_of(message, peer)
    return expect(message, kind)
