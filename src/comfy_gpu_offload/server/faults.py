"""Faults for the errors of a worker: which code, message and places in the code a client is told."""

from __future__ import annotations

import traceback

from ..backends.base import (
    BackendError,
    BadPatchesError,
    InterruptedCallError,
    ModelMismatchError,
    ModelNotFoundError,
    ModelRunError,
    OutOfMemoryError,
)
from ..errors import FrameError, MessageError, UnsupportedValueError
from ..io.frame import ALTERED
from ..protocol.envelope import ProtocolSkewError
from ..protocol.messages import Fault, FaultCode
from .executor import CallerGoneError, ExecutorBusyError, ExecutorClosedError, JobCancelledError
from .model_downloads.errors import DownloadFailedError, DownloadStoppedError
from .model_store.refusals import DiskFullError, FileInUseError, ModelStoreError

_MAX_MESSAGE = 4000

# The first class that matches decides.
_CODES: tuple[tuple[type[BaseException], FaultCode], ...] = (
    (ProtocolSkewError, FaultCode.UNSUPPORTED_PROTOCOL),
    (FrameError, FaultCode.BAD_FRAME),
    (MessageError, FaultCode.BAD_MESSAGE),
    (UnsupportedValueError, FaultCode.UNSUPPORTED_RESULT),
    (ModelNotFoundError, FaultCode.UNKNOWN_MODEL),
    (ModelMismatchError, FaultCode.MODEL_CHANGED),
    (OutOfMemoryError, FaultCode.OUT_OF_MEMORY),
    (BadPatchesError, FaultCode.BAD_PATCHES),
    (InterruptedCallError, FaultCode.CANCELLED),
    (ModelRunError, FaultCode.MODEL_FAILED),
    (BackendError, FaultCode.MODEL_FAILED),
    (DiskFullError, FaultCode.DISK_FULL),
    (FileInUseError, FaultCode.BUSY),
    (DownloadFailedError, FaultCode.DOWNLOAD_FAILED),
    (DownloadStoppedError, FaultCode.CANCELLED),
    (ModelStoreError, FaultCode.REFUSED_FILE),
    (JobCancelledError, FaultCode.CANCELLED),
    (CallerGoneError, FaultCode.CANCELLED),
    (ExecutorBusyError, FaultCode.BUSY),
    (ExecutorClosedError, FaultCode.STOPPING),
)
_TOO_LARGE = {"frame_too_large", "header_too_large", "tensors_too_large", "too_many_tensors"}


class RefusedError(Exception):
    """A refusal that carries its fault."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault


STARTING = Fault(code=FaultCode.BUSY, message="The worker is still starting.", retryable=True)
UNAUTHORIZED = Fault(
    code=FaultCode.UNAUTHORIZED,
    message="The token is wrong or missing, or was revoked: put the line that the worker prints with --share into "
    "COMFY_GPU_OFFLOAD_URL, or set COMFY_GPU_OFFLOAD_TOKEN to the worker's.",
)


def missing_tensors(digests: tuple[bytes, ...]) -> Fault:
    """Return the fault that asks for the tensors that the worker lacks."""
    text = f"The worker does not hold {len(digests)} of the tensors named by digest."
    return Fault(code=FaultCode.MISSING_TENSORS, message=text, retryable=True, missing=digests)


def wrong_digest(what: str) -> RefusedError:
    """Return the refusal of data that does not match its digest. `what`: the subject of the sentence."""
    return RefusedError(Fault(code=FaultCode.WRONG_DIGEST, message=f"{what} does not match its digest."))


def fault_of(error: BaseException) -> Fault:
    """Return the fault for `error`. An unexpected one is told by its type only, since its text may hold values."""
    if isinstance(error, RefusedError):
        return error.fault
    for kind, code in _CODES:
        if isinstance(error, kind):
            return _fault(_narrowed(code, error), str(error), error)
    return _fault(FaultCode.INTERNAL, f"The worker failed with {type(error).__name__}; its log says where.", error)


def _narrowed(code: FaultCode, error: BaseException) -> FaultCode:
    if isinstance(error, FrameError) and error.malformation in _TOO_LARGE:
        return FaultCode.TOO_LARGE
    return code


def _fault(code: FaultCode, message: str, error: BaseException) -> Fault:
    where = places(error) if code in {FaultCode.MODEL_FAILED, FaultCode.INTERNAL} else None
    altered = isinstance(error, FrameError) and error.malformation == ALTERED
    retryable = code in {FaultCode.BUSY, FaultCode.STOPPING} or altered
    return Fault(code=code, message=message[:_MAX_MESSAGE], retryable=retryable, traceback=where)


def places(error: BaseException) -> str:
    """Return where `error` and its causes were raised: files, lines, functions and types, without their texts."""
    chain: list[str] = []
    link: BaseException | None = error
    while link is not None and len(chain) < 8:
        frames = traceback.extract_tb(link.__traceback__)[-20:]
        lines = [f"  {frame.filename}:{frame.lineno} in {frame.name}" for frame in frames]
        chain.append("\n".join([type(link).__name__, *lines]))
        link = link.__cause__ or link.__context__
    return "\nfrom ".join(chain)[:20_000]
