"""Every error this package raises on purpose.

OffloadError
├── ConfigError            a setting is missing or wrong; names it and says what it should look like
├── UnsupportedValueError  something that cannot travel; names where it was found and what it is
├── UnsupportedStateError  torch's state around a call, which the worker does not follow; says what to do
├── UnsupportedPatchError  a patched model carries what cannot travel; lists all of it
├── UnsupportedRunError    a sampling run that cannot go to the worker as a whole; names the reason
├── UnsupportedCodecError  the worker cannot read what the compression asked for makes; says what it can
├── RemoteMergeError       a model at the worker that is merged into one that is here
├── RemoteWeightsError     weights at the worker that something here would read or convert: to save them, say
├── RemoteControlNetError  a ControlNet at the worker that is used where it cannot work; says what to do
├── FrameError             bytes that are not a frame; `malformation` is the name in docs/frame.md
├── MessageError           a good frame that says something the protocol does not know
├── CodecError             a payload its codec cannot decode
├── TransportError         the worker could not be reached, or the exchange broke
│   ├── ConnectError           no connection: refused, unresolved, no route
│   │   └── ProxyError             the proxy that the environment names is not there, or does not let through
│   ├── ConnectionLostError    the connection ended before the reply was complete
│   │   ├── SilentConnectionError  it stayed open, and nothing came any more
│   │   └── WrongReplyError        what came answers another request
│   ├── ExchangeTimeoutError   no reply within the time allowed
│   ├── ForkedWorkerError      a worker within the process that this one was forked from; never retried
│   ├── TlsError               the certificate was not accepted; never retried
│   ├── HttpStatusError        an HTTP reply that is not ours: a proxy, a waking endpoint, a wrong address
│   ├── NoWorkerError          an endpoint whose worker still has to start, or is gone
│   └── RunPodError            RunPod's API refused, failed, or could not be asked
│       ├── RunPodAuthError            the API key is wrong, or does not allow this
│       ├── RunPodNotFoundError        no such endpoint, or the job is gone
│       ├── RunPodWrongKindError       the endpoint is not a queue endpoint
│       ├── RunPodPayloadTooLargeError over what the endpoint takes; `size_bytes`, `limit_bytes`
│       ├── RunPodRequestError         a request that RunPod refuses, or that is not sent because it would
│       ├── RunPodRateLimitError       too many requests
│       ├── RunPodServerError          RunPod, or the edge before it, failed
│       ├── RunPodNetworkError         no connection, or it ended before the reply was complete
│       ├── RunPodReplyError           a reply that is not of the documented form
│       └── RunPodJobError             a job that RunPod took gave no output; `job_id` says which
│           ├── RunPodOutputLostError      it completed, and its output is lost
│           ├── RunPodJobFailedError       it failed; `code`, `message` and `detail` say how
│           ├── RunPodJobTimedOutError     RunPod ended it: its time was over
│           ├── RunPodJobCancelledError    it was cancelled
│           └── RunPodJobUnfinishedError   it has not ended within the time it was waited for
└── WorkerFaultError       the worker answered with a fault; `code` says which
    ├── WorkerBusyError        others' calls come first; asked again, it gets its turn
    ├── UnauthorizedError      wrong or missing token
    ├── VersionSkewError       the two sides speak different protocols
    ├── UnknownModelError      the worker has no such model
    ├── ModelChangedError      the model is not the one the session was opened with
    ├── TooLargeError          over one of the worker's limits
    ├── CallCancelledError     the call was cancelled
    └── ModelFailedError       the model itself raised; a RuntimeError too, as it would be here
        └── WorkerMemoryError      the worker's device ran out of memory; a torch.OutOfMemoryError too
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

try:
    from torch import OutOfMemoryError as _OutOfMemoryError
except ImportError:  # without torch a command says what to install; torch before 2.5 has it elsewhere
    _OutOfMemoryError = RuntimeError  # type: ignore[misc,assignment]


@dataclass(frozen=True)
class Obstacle:
    """One thing about a patched model that cannot travel.

    Attributes:
        what: it is.
        nodes: which nodes usually put it there.
        remedy: what to do, in a sentence or two.
    """

    what: str
    nodes: str
    remedy: str

    @property
    def named(self) -> str:
        """What it is and which nodes put it there."""
        return f"{self.what} ({self.nodes})"

    def __str__(self) -> str:
        return f"{self.named}. {self.remedy}"


class OffloadError(Exception):
    """Base of all errors of this package. The message says what happened and what to do next."""


class ConfigError(OffloadError):
    """A setting is missing or wrong."""


class UnsupportedValueError(OffloadError):
    """A value that cannot travel.

    Attributes:
        path: where it was found, e.g. ``kwargs['transformer_options']['patches']``.
        kind: its type's qualified name.
        why: what about it cannot travel.
    """

    def __init__(self, path: str, kind: str, why: str) -> None:
        super().__init__(f"{path} holds a {kind}, which cannot travel to the worker: {why}")
        self.path = path
        self.kind = kind
        self.why = why


class UnsupportedStateError(OffloadError):
    """Torch's state around a call, which would change what a local model computes and does not travel."""


class UnsupportedPatchError(OffloadError):
    """A patched model carries what cannot travel.

    Attributes:
        obstacles: everything found.
    """

    def __init__(self, obstacles: tuple[Obstacle, ...]) -> None:
        listed = "\n".join(f"  - {obstacle}" for obstacle in obstacles)
        super().__init__(
            f"This remote model was patched in a way that cannot travel to the worker:\n{listed}\n"
            "With the model loaded here (Remote Model Loader with use_runpod off) all is as in ComfyUI itself."
        )
        self.obstacles = obstacles


class UnsupportedRunError(OffloadError):
    """A sampling run that cannot go to the worker as a whole, though it may step by step.

    Attributes:
        obstacle: what stands against it, and which nodes usually put it there.
    """

    def __init__(self, obstacle: str) -> None:
        super().__init__(
            f"This run cannot go to the worker as a whole: {obstacle}. Set offload to auto or each step, where the "
            "sampling runs here and only the model at the worker, or do without it."
        )
        self.obstacle = obstacle


class UnsupportedCodecError(OffloadError):
    """The worker cannot read what the compression that is set would make of tensors.

    Attributes:
        unknown: the codecs that it does not know.
    """

    def __init__(self, unknown: tuple[str, ...], release: str, others: tuple[str, ...]) -> None:
        super().__init__(
            f"Tensors would be stored by {', '.join(unknown)}, which the worker (comfy-gpu-offload {release:.40}) "
            "does not know. Install the newer release of comfy-gpu-offload on both sides, or set "
            f"COMFY_GPU_OFFLOAD_COMPRESSION to {' or '.join(others)}."
        )
        self.unknown = unknown


class RemoteControlNetError(OffloadError):
    """A ControlNet at the worker that is used where it cannot work: with a model that is here, say."""


class RemoteMergeError(OffloadError):
    """A model at the worker that is merged into one that is here."""

    def __init__(self, name: str = "") -> None:
        model = f"the remote model {name!r}" if name else "a remote model"
        super().__init__(
            f"The weights of {model} are at the worker, and cannot be merged into a model that "
            "is here. Load both with Remote Model Loader: then the worker merges them."
        )


class RemoteWeightsError(OffloadError):
    """Weights at the worker that something here would read."""

    def __init__(self, name: str, purpose: str) -> None:
        super().__init__(
            f"The weights of the remote model {name!r} are at the worker and cannot be read here, {purpose}. Load "
            "the model here for that: Remote Model Loader with use_runpod off, or ComfyUI's own loader."
        )


class RemoteWeightError(RemoteWeightsError):
    """A weight at the worker that something here would read or change.

    Attributes:
        name: the model's.
        key: the weight's name in it.
        by: whose code it is.
    """

    def __init__(self, name: str, key: str, by: str) -> None:
        OffloadError.__init__(
            self,
            f"{by} would read or change {key}, a weight of the remote model {name!r} and so at the worker. Bypass "
            "that node, or load the model here: Remote Model Loader with use_runpod off, or ComfyUI's own loader.",
        )
        self.name = name
        self.key = key
        self.by = by


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
    """No connection could be made.

    Attributes:
        unknown_host: whether there is no such name, which waiting does not change.
    """

    def __init__(self, message: str, *, unknown_host: bool = False) -> None:
        super().__init__(message)
        self.unknown_host = unknown_host


class ProxyError(ConnectError):
    """The proxy that the environment names is not there, or does not let a connection through.

    Attributes:
        retryable: whether another attempt may be let through.
    """

    def __init__(self, message: str, *, retryable: bool) -> None:
        super().__init__(message)
        self.retryable = retryable


class ConnectionLostError(TransportError):
    """The connection ended before the reply was complete."""


class SilentConnectionError(ConnectionLostError):
    """The connection stayed open, and nothing came any more."""


class WrongReplyError(ConnectionLostError):
    """A reply to another request than the one that was made."""


class ExchangeTimeoutError(TransportError):
    """No reply within the time allowed."""


class ForkedWorkerError(TransportError):
    """The worker runs within the process that this one was forked from."""

    retryable = False


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


class NoWorkerError(TransportError):
    """An endpoint has no worker that answers: it still has to start, or is gone.

    Attributes:
        status: the HTTP status code that said so, or None.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class RunPodError(TransportError):
    """RunPod's API refused, failed, or could not be asked.

    Attributes:
        status: the HTTP status code, or None where no reply came or none was asked for.
        retryable: whether the same request may succeed later without doing harm.
        maybe_submitted: whether a job may have begun of which nothing is known, so that sending it again could
            bill it twice. Never together with `retryable`.
        retry_after_s: how long RunPod asks to wait, or None.
    """

    retryable = False

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        retryable: bool | None = None,
        maybe_submitted: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.maybe_submitted = maybe_submitted
        self.retry_after_s = retry_after_s
        if retryable is not None:
            self.retryable = retryable
        if maybe_submitted:
            self.retryable = False


class RunPodAuthError(RunPodError):
    """The API key is wrong, or does not allow this."""


class RunPodNotFoundError(RunPodError):
    """There is no such endpoint, or the job is gone."""


class RunPodWrongKindError(RunPodError):
    """The endpoint is not a queue endpoint."""


class RunPodPayloadTooLargeError(RunPodError):
    """A request over what a RunPod endpoint takes.

    Attributes:
        size_bytes: of the encoded request, or None where it is not known.
        limit_bytes: what it may take on this route, or None where RunPod did not say.
    """

    def __init__(
        self,
        message: str,
        *,
        size_bytes: int | None = None,
        limit_bytes: int | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(message, status=status)
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes


class RunPodRequestError(RunPodError):
    """A request that RunPod refuses, or that is not sent because it would."""


class RunPodRateLimitError(RunPodError):
    """Too many requests in a short time."""

    retryable = True


class RunPodServerError(RunPodError):
    """RunPod, or the edge before it, failed."""

    retryable = True


class RunPodNetworkError(RunPodError):
    """No connection to RunPod, or it ended before the reply was complete.

    Attributes:
        connected: whether there was a connection, so that RunPod may have received the request.
    """

    retryable = True

    def __init__(
        self, message: str, *, connected: bool, retryable: bool | None = None, maybe_submitted: bool = False
    ) -> None:
        super().__init__(message, retryable=retryable, maybe_submitted=maybe_submitted)
        self.connected = connected


class RunPodReplyError(RunPodError):
    """A reply of RunPod's that is not of the documented form."""


class RunPodJobError(RunPodError):
    """A job that RunPod took gave no output.

    Attributes:
        job_id: RunPod's name of the job.
    """

    def __init__(self, message: str, *, job_id: str, retryable: bool | None = None) -> None:
        super().__init__(message, retryable=retryable)
        self.job_id = job_id


class RunPodOutputLostError(RunPodJobError):
    """The job completed, and its output is lost."""


class RunPodJobFailedError(RunPodJobError):
    """The job failed.

    Attributes:
        message: what the worker, or RunPod, says of it, in one line.
        code: the worker's own name of the fault, or None.
        detail: what the worker sent as JSON, all of it, or None. May hold tensors: not for a log.
        retryable: whether the worker says so.
    """

    def __init__(
        self,
        text: str,
        *,
        job_id: str,
        message: str,
        code: str | None = None,
        detail: dict[str, Any] | None = None,
        retryable: bool = False,
    ) -> None:
        super().__init__(text, job_id=job_id, retryable=retryable)
        self.message = message
        self.code = code
        self.detail = detail


class RunPodJobTimedOutError(RunPodJobError):
    """RunPod ended the job: its time was over, in the queue or on a worker."""


class RunPodJobCancelledError(RunPodJobError):
    """The job was cancelled."""


class RunPodJobUnfinishedError(RunPodJobError):
    """The job has not ended within the time it was waited for. It goes on until it is cancelled."""


class WorkerFaultError(OffloadError):
    """The worker answered with a fault.

    Attributes:
        code: the fault's code (`protocol.FaultCode`).
        worker_traceback: where in the worker's code it happened, or None. For a log at DEBUG.
        retryable: whether the same request may succeed later.
        unread: whether the worker could not read what it was asked, so that the way may have altered it.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str,
        worker_traceback: str | None = None,
        retryable: bool = False,
        unread: bool = False,
    ) -> None:
        super().__init__(message)
        self.unread = unread
        self.code = code
        self.worker_traceback = worker_traceback
        self.retryable = retryable


class WorkerBusyError(WorkerFaultError):
    """Others' calls come first, or the worker still starts. Asked again, a call gets its turn."""


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


class ModelFailedError(WorkerFaultError, RuntimeError):
    """The model itself raised.

    A `RuntimeError`, so that what handles a local model's errors by their class does so: ComfyUI's tips, a script.
    """


class WorkerMemoryError(ModelFailedError, _OutOfMemoryError):
    """The worker's device ran out of memory."""
