"""Every error this package raises on purpose.

OffloadError
├── ConfigError            a setting is missing or wrong; names it and says what it should look like
├── UnsupportedValueError  something that cannot travel; names where it was found and what it is
├── UnsupportedPatchError  a patched model carries what cannot travel; lists all of it
├── FrameError             bytes that are not a frame; `malformation` is the name in docs/frame.md
├── MessageError           a good frame that says something the protocol does not know
├── CodecError             a payload its codec cannot decode
├── TransportError         the worker could not be reached, or the exchange broke
│   ├── ConnectError           no connection: refused, unresolved, no route
│   ├── ConnectionLostError    the connection ended before the reply was complete
│   ├── ExchangeTimeoutError   no reply within the time allowed
│   ├── TlsError               the certificate was not accepted; never retried
│   └── HttpStatusError        an HTTP reply that is not ours: a proxy, a waking endpoint, a wrong address
└── WorkerFaultError       the worker answered with a fault; `code` says which
    ├── UnauthorizedError      wrong or missing token
    ├── VersionSkewError       the two sides speak different protocols
    ├── UnknownModelError      the worker has no such model
    ├── ModelChangedError      the model is not the one the session was opened with
    ├── TooLargeError          over one of the worker's limits
    ├── CallCancelledError     the call was cancelled
    └── ModelFailedError       the model itself raised, or ran out of memory
"""

from __future__ import annotations


class OffloadError(Exception):
    """Base of all errors of this package. The message says what happened and what to do next."""


class ConfigError(OffloadError):
    """A setting is missing or wrong."""


class UnsupportedValueError(OffloadError):
    """A value that cannot travel.

    Attributes:
        path: where it was found, e.g. ``kwargs['transformer_options']['patches']``.
        kind: its type's qualified name.
    """

    def __init__(self, path: str, kind: str, why: str) -> None:
        super().__init__(f"{path} holds a {kind}, which cannot travel to the worker: {why}")
        self.path = path
        self.kind = kind


class UnsupportedPatchError(OffloadError):
    """A patched model carries what cannot travel.

    Attributes:
        patches: one line for each thing found, what it is and which nodes usually put it there.
    """

    def __init__(self, patches: tuple[str, ...]) -> None:
        listed = "\n".join(f"  - {patch}" for patch in patches)
        super().__init__(
            f"This remote model was patched in a way that cannot travel to the worker:\n{listed}\n"
            "Remove these nodes, or load the model here (Remote Model Loader with use_runpod off)."
        )
        self.patches = patches


class FrameError(OffloadError):
    """Bytes that are not a frame.

    Attributes:
        malformation: the name of what is wrong, as in the table of docs/frame.md.
    """

    def __init__(self, malformation: str, detail: str) -> None:
        super().__init__(f"{malformation}: {detail}")
        self.malformation = malformation


class MessageError(OffloadError):
    """A well-formed frame whose message the protocol does not know."""


class CodecError(OffloadError):
    """A payload that its codec cannot decode, or a codec that is not known."""


class TransportError(OffloadError):
    """The worker could not be reached, or the exchange broke.

    Attributes:
        retryable: whether the same request may succeed later.
    """

    retryable = True


class ConnectError(TransportError):
    """No connection could be made."""


class ConnectionLostError(TransportError):
    """The connection ended before the reply was complete."""


class ExchangeTimeoutError(TransportError):
    """No reply within the time allowed."""


class TlsError(TransportError):
    """The worker's certificate was not accepted."""

    retryable = False


class HttpStatusError(TransportError):
    """An HTTP reply that carries no frame.

    Attributes:
        status: the HTTP status code.
    """

    def __init__(self, message: str, status: int, *, retryable: bool) -> None:
        super().__init__(message)
        self.status = status
        self.retryable = retryable


class WorkerFaultError(OffloadError):
    """The worker answered with a fault.

    Attributes:
        code: the fault's code (`protocol.FaultCode`).
        worker_traceback: where in the worker's code it happened, or None. For a log at DEBUG.
    """

    def __init__(self, message: str, *, code: str, worker_traceback: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.worker_traceback = worker_traceback


class UnauthorizedError(WorkerFaultError):
    """Wrong or missing token."""


class VersionSkewError(WorkerFaultError):
    """The two sides speak different protocols."""


class UnknownModelError(WorkerFaultError):
    """The worker has no such model."""


class ModelChangedError(WorkerFaultError):
    """The worker's model is not the one the session was opened with."""


class TooLargeError(WorkerFaultError):
    """Over one of the worker's limits."""


class CallCancelledError(WorkerFaultError):
    """The call was cancelled."""


class ModelFailedError(WorkerFaultError):
    """The model itself raised, or ran out of memory."""
