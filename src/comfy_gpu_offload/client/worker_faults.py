"""A worker's fault as the error that its code stands for, and a reply that the way spoilt as a loss."""

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
    """What a reply says.

    Raises:
        ConnectionLostError: it was altered on the way, and may come whole when it is asked for again.
        FrameError, MessageError: as `open_frame`.
    """
    try:
        return open_frame(reply, limits)
    except FrameError as error:
        if error.malformation == ALTERED:
            raise ConnectionLostError(f"The worker's reply is damaged ({error}).") from error
        raise


def error_of(fault: Fault, peer: str = "") -> WorkerFaultError:
    """Return the error to raise for `fault`. Its message names `peer`, who answered, where that is known."""
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
    """Return `message`, which must be of `kind`. `peer`: who sent it, for an error.

    Raises:
        WorkerFaultError: it is a fault.
        MessageError: it is of another kind.
    """
    if isinstance(message, Fault):
        raise error_of(message, peer)
    return expect(message, kind)
