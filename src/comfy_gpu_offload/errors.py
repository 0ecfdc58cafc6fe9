"""The package's errors: one tree, whose messages say what failed and what to do.

OffloadError
├── ConfigError            a setting is missing or wrong; names it and says what it should look like
├── UnsupportedValueError  a value that cannot be sent to the worker; names its place and its type
├── UnsupportedStateError  torch's state around a call, which the worker does not follow; says what to do
├── UnsupportedPatchError  a model with patches that cannot be sent to the worker; lists all of them
├── UnsupportedModuleError the worker's release has no modules besides models
├── ModelDownloadsOffError the worker's operator does not let clients bring models, or its release is older
├── UnsupportedRunError    a sampling run that cannot go to the worker as a whole; names the reason
├── UnsupportedCodecError  the worker cannot decode the compression that is set; names those that it can
├── ModelPushError         a model file of this machine that cannot be pushed to the worker; says why
├── RemoteMergeError       a merge of a model at the worker into a model on this machine
├── RemoteWeightsError     weights at the worker that code on this machine needs, to save them for example
│   └── RemoteWeightError      one such weight; names it, and the code that needs it
├── RemoteControlNetError  a ControlNet at the worker that is used where it cannot work; says what to do
├── FrameError             bytes that are not a frame; `malformation` is the name in docs/frame.md
├── MessageError           a well-formed frame whose message the protocol does not know
├── CodecError             a payload that its codec cannot decode
├── TransportError         the worker could not be reached, or the exchange broke
│   ├── ConnectError           no connection: refused, unresolved, no route
│   │   └── ProxyError             the environment's proxy is not there, or refuses the connection
│   ├── ConnectionLostError    the connection ended before the reply was complete
│   │   ├── SilentConnectionError  it stayed open, but nothing came any more
│   │   └── WrongReplyError        the reply answers another request
│   ├── ExchangeTimeoutError   no reply within the time allowed
│   ├── ForkedWorkerError      the worker ran within the process that this one was forked from; never retried
│   ├── TlsError               the certificate was not accepted; never retried
│   ├── HttpStatusError        an HTTP reply without a frame: of a proxy, a starting endpoint, a wrong address
│   ├── NoWorkerError          an endpoint without a worker that answers: it has to start, or is gone
│   └── RunPodError            RunPod's API refused, failed, or could not be asked
│       ├── RunPodAuthError            the API key is wrong, or does not allow this
│       │   └── RunPodForbiddenError       the key is good, but may not do this
│       ├── RunPodBalanceError         the account has not the credit that this takes
│       ├── RunPodCapacityError        RunPod has no such GPU free at present; another may do
│       ├── RunPodNotFoundError        no such endpoint, or the job is gone
│       ├── RunPodWrongKindError       the endpoint is not a queue endpoint
│       ├── RunPodPayloadTooLargeError over what the endpoint takes; `size_bytes`, `limit_bytes`
│       ├── RunPodRequestError         a request that RunPod refuses, or would refuse and that is not sent
│       │   └── RunPodRuleError            what is to be made breaks a rule of RunPod's; `fields` says which
│       ├── RunPodRateLimitError       too many requests
│       ├── RunPodServerError          RunPod, or the edge before it, failed
│       ├── RunPodNetworkError         no connection, or it ended before the reply was complete
│       ├── RunPodReplyError           a reply that is not of the documented form
│       └── RunPodJobError             an accepted job gave no output; `job_id` says which
│           ├── RunPodOutputLostError      it completed, but its output is lost
│           ├── RunPodJobFailedError       it failed; `code`, `message` and `detail` say how
│           ├── RunPodJobTimedOutError     RunPod ended it when its time was over
│           ├── RunPodJobCancelledError    it was cancelled
│           └── RunPodJobUnfinishedError   it did not end within the time allowed
├── RentalError            a GPU could not be rented, or not be given back
│   ├── NothingFitsError       no GPU fits the wish, is in stock, or could be had
│   ├── MachineError           a rented machine failed or was not ready in time; another may do
│   └── StillBillingError      something rented could not be deleted; names it and the command that does
└── WorkerFaultError       the worker answered with a fault; `code` says which
    ├── WorkerBusyError        other calls come first; a repeated call gets its turn
    ├── UnauthorizedError      wrong or missing token
    ├── VersionSkewError       the two sides speak different protocols
    ├── UnknownModelError      the worker has no such model
    ├── ModelChangedError      the model is not the one that the session was opened with
    ├── TooLargeError          over one of the worker's limits
    ├── CallCancelledError     the call was cancelled
    └── ModelFailedError       the model itself raised; also a RuntimeError, as with a local model
        └── WorkerMemoryError      the worker's device ran out of memory; also a torch.OutOfMemoryError
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

try:
    from torch import OutOfMemoryError as _OutOfMemoryError
except ImportError:  # no torch (commands say what to install), or torch before 2.5, which has it elsewhere
    _OutOfMemoryError = RuntimeError  # type: ignore[misc,assignment]

# The same advice in many messages. The words in quotes are the label of the loader nodes' switch.
_RUN_HERE = 'its remote loader with "run on the worker" off, or ComfyUI\'s own loader'


@dataclass(frozen=True)
class Obstacle:
    """A reason why a patched model cannot run on the worker, with its cause and its remedy.

    Attributes:
        what: the patch, option or change that cannot be sent, as a noun phrase: ``the injection 'lora'``.
        nodes: the nodes or the code that put it there, as far as that is known.
        remedy: what the user can do about it, in a sentence or two.
    """

    what: str
    nodes: str
    remedy: str

    @property
    def summary(self) -> str:
        """The reason and its cause, without the remedy."""
        return f"{self.what} ({self.nodes})"

    def __str__(self) -> str:
        return f"{self.summary}. {self.remedy}"


class OffloadError(Exception):
    """Base of all errors of this package. Its message says what failed and what to do."""


class ConfigError(OffloadError):
    """A setting is missing or wrong."""


class UnsupportedValueError(OffloadError):
    """A value that cannot be sent to the worker.

    Attributes:
        path: where it was found, e.g. ``kwargs['transformer_options']['patches']``.
        kind: its type's qualified name.
        why: why it cannot be sent.
    """

    def __init__(self, path: str, kind: str, why: str) -> None:
        super().__init__(f"{path} holds a {kind}, which cannot be sent to the worker: {why}")
        self.path = path
        self.kind = kind
        self.why = why


class UnsupportedStateError(OffloadError):
    """Torch's state around a call changes a local model's results, and the worker does not follow it."""


class UnsupportedPatchError(OffloadError):
    """A model has patches that cannot be sent to the worker.

    Attributes:
        obstacles: one for each of them.
    """

    def __init__(self, obstacles: tuple[Obstacle, ...]) -> None:
        listed = "\n".join(f"  - {obstacle}" for obstacle in obstacles)
        super().__init__(
            f"This remote model has patches that cannot be sent to the worker:\n{listed}\n"
            f"To load the model here, use {_RUN_HERE}."
        )
        self.obstacles = obstacles


class UnsupportedModuleError(OffloadError):
    """The worker is of a release that has no modules besides models, and calls nothing but their forward pass."""

    def __init__(self) -> None:
        super().__init__(
            "The worker's comfy-gpu-offload lacks the capability 'modules': it runs diffusion models and "
            "ControlNets alone. Update it there, or switch off use_runpod in the loader."
        )


class ModelDownloadsOffError(OffloadError):
    """The worker's operator does not let clients bring models, or its release is older."""

    def __init__(self) -> None:
        super().__init__(
            "This worker takes no models from clients. On its machine, start it with --allow-downloads, or set "
            "COMFY_GPU_OFFLOAD_MODEL_DOWNLOADS=on there; a release that does not know this has to be updated."
        )


class UnsupportedRunError(OffloadError):
    """A sampling run that cannot go to the worker as a whole, though perhaps step by step.

    Attributes:
        obstacle: the reason, and the nodes that usually cause it.
    """

    def __init__(self, obstacle: str) -> None:
        super().__init__(
            f"This run cannot go to the worker as a whole: {obstacle}. In Remote Sampler, set offload to "
            '"auto" or "each step", so that only the model runs on the worker, or bypass that node.'
        )
        self.obstacle = obstacle


class UnsupportedCodecError(OffloadError):
    """The worker does not know the codecs of the compression that is set.

    Attributes:
        unknown: these codecs.
    """

    def __init__(self, unknown: tuple[str, ...], release: str, others: tuple[str, ...]) -> None:
        super().__init__(
            f"The worker (comfy-gpu-offload {release:.40}) cannot decode {', '.join(unknown)}. Install the newer "
            "release of comfy-gpu-offload on both sides, or set COMFY_GPU_OFFLOAD_COMPRESSION to "
            f"{' or '.join(others)}."
        )
        self.unknown = unknown


class ModelPushError(OffloadError):
    """A model file of this machine that cannot be pushed to the worker."""


class RemoteControlNetError(OffloadError):
    """A ControlNet at the worker that is used where it cannot work, with a local model for example."""


class RemoteMergeError(OffloadError):
    """A merge of a model at the worker into a model on this machine."""

    def __init__(self, name: str = "") -> None:
        model = f"The remote model {name!r}" if name else "A remote model"
        super().__init__(
            f"{model} cannot be merged into a model on this machine, because its weights are at the worker. Load "
            "both with remote loaders: then the worker merges them."
        )


class RemoteWeightsError(OffloadError):
    """Weights at the worker that code on this machine needs."""

    def __init__(self, name: str, purpose: str) -> None:
        """`purpose`: what they are needed for, e.g. ``to save them``."""
        super().__init__(
            f"The weights of the remote model {name!r} are at the worker and cannot be read here {purpose}. Load "
            f"the model here: {_RUN_HERE}."
        )


class RemoteWeightError(RemoteWeightsError):
    """A weight at the worker that code on this machine would read or change.

    Attributes:
        name: the model's name.
        key: the weight's key in the model.
        by: that code, e.g. ``nodes: LoraSave.save``.
    """

    def __init__(self, name: str, key: str, by: str) -> None:
        OffloadError.__init__(
            self,
            f"{by} cannot read or change {key}: it is a weight of the remote model {name!r}, at the worker. Bypass "
            f"that node, or load the model here: {_RUN_HERE}.",
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
    """A payload that its codec cannot decode, or an unknown codec."""


class TransportError(OffloadError):
    """The worker could not be reached, or the exchange broke.

    Attributes:
        retryable: whether the same request may succeed later.
    """

    retryable = True


class ConnectError(TransportError):
    """No connection could be made.

    Attributes:
        unknown_host: whether the host's name does not exist, so that waiting is of no use.
    """

    def __init__(self, message: str, *, unknown_host: bool = False) -> None:
        super().__init__(message)
        self.unknown_host = unknown_host


class ProxyError(ConnectError):
    """The proxy that the environment names is not there, or refuses the connection.

    Attributes:
        retryable: whether another attempt may succeed.
    """

    def __init__(self, message: str, *, retryable: bool) -> None:
        super().__init__(message)
        self.retryable = retryable


class ConnectionLostError(TransportError):
    """The connection ended before the reply was complete."""


class SilentConnectionError(ConnectionLostError):
    """The connection stayed open, but nothing came any more."""


class WrongReplyError(ConnectionLostError):
    """The reply answers another request."""


class ExchangeTimeoutError(TransportError):
    """No reply within the time allowed."""


class ForkedWorkerError(TransportError):
    """The worker ran within the process that this one was forked from."""

    retryable = False


class TlsError(TransportError):
    """The worker's certificate was not accepted."""

    retryable = False


class HttpStatusError(TransportError):
    """An HTTP reply without a frame.

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
        status: the HTTP status code by which that is known, or None.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class RunPodError(TransportError):
    """RunPod's API refused, failed, or could not be asked.

    Attributes:
        status: the HTTP status code, or None if there was no reply.
        retryable: whether the same request may succeed later and does no harm if it is repeated.
        maybe_submitted: whether RunPod may have accepted a job, or made a pod, whose id is unknown, so that sending
            it again could bill it twice. Never together with `retryable`.
        retry_after_s: the time that RunPod asks to wait, or None.
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


class RunPodForbiddenError(RunPodAuthError):
    """The API key is good, but may not do this."""


class RunPodBalanceError(RunPodError):
    """The account has not the credit that this takes."""


class RunPodCapacityError(RunPodError):
    """RunPod has no such GPU free at present. Another type, data centre or cloud may have one."""


class RunPodNotFoundError(RunPodError):
    """There is no such endpoint, pod or volume, or the job is gone."""


class RunPodWrongKindError(RunPodError):
    """The endpoint is not a queue endpoint."""


class RunPodPayloadTooLargeError(RunPodError):
    """A request over a RunPod endpoint's limit.

    Attributes:
        size_bytes: the size of the encoded request, or None if unknown.
        limit_bytes: the route's limit, or None if RunPod did not name it.
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
    """A request that RunPod refuses, or would refuse and that is not sent."""


class RunPodRuleError(RunPodRequestError):
    """The pod, endpoint or volume that is asked for breaks a rule of RunPod's.

    Attributes:
        fields: RunPod's sentences about the fields that are wrong; empty if it names none.
    """

    def __init__(self, message: str, *, status: int, fields: tuple[str, ...] = ()) -> None:
        super().__init__(message, status=status)
        self.fields = fields


class RunPodRateLimitError(RunPodError):
    """Too many requests in a short time."""

    retryable = True


class RunPodServerError(RunPodError):
    """RunPod, or the edge before it, failed."""

    retryable = True


class RunPodNetworkError(RunPodError):
    """No connection to RunPod, or it ended before the reply was complete.

    Attributes:
        connected: whether there was a connection, and RunPod may have received the request.
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
    """A job that RunPod accepted gave no output.

    Attributes:
        job_id: RunPod's id of the job.
    """

    def __init__(self, message: str, *, job_id: str, retryable: bool | None = None) -> None:
        super().__init__(message, retryable=retryable)
        self.job_id = job_id


class RunPodOutputLostError(RunPodJobError):
    """The job completed, but its output is lost."""


class RunPodJobFailedError(RunPodJobError):
    """The job failed.

    Attributes:
        message: the worker's message, or RunPod's, in one line.
        code: the worker's code of the fault, or None.
        detail: all the JSON that the worker sent, or None. It may hold tensors, so it must not be logged.
        retryable: whether the worker says that the same request may succeed later.
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
    """RunPod ended the job when its time in the queue or on a worker was over."""


class RunPodJobCancelledError(RunPodJobError):
    """The job was cancelled."""


class RunPodJobUnfinishedError(RunPodJobError):
    """The job did not end within the time allowed. It goes on until it is cancelled."""


class RentalError(OffloadError):
    """A GPU could not be rented, or not be given back."""


class NothingFitsError(RentalError):
    """No GPU fits the wish, is in stock, or could be had."""


class MachineError(RentalError):
    """A rented machine failed, or was not ready in time. It has been given back, and another may do."""


class StillBillingError(RentalError):
    """Something rented could not be deleted, and may still bill."""


class WorkerFaultError(OffloadError):
    """The worker answered with a fault.

    Attributes:
        code: the fault's code (`protocol.FaultCode`).
        worker_traceback: the traceback in the worker's code, or None. To be logged at DEBUG only.
        retryable: whether the same request may succeed later.
        unread: whether the worker could not read the request, which may have been damaged on its way.
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
    """Other calls come first, or the worker is still starting. A repeated call gets its turn."""


class UnauthorizedError(WorkerFaultError):
    """Wrong or missing token."""


class VersionSkewError(WorkerFaultError):
    """The two sides speak different protocols."""


class UnknownModelError(WorkerFaultError):
    """The worker has no such model."""


class ModelChangedError(WorkerFaultError):
    """The worker's model is not the one that the session was opened with."""


class TooLargeError(WorkerFaultError):
    """The request is over one of the worker's limits."""


class CallCancelledError(WorkerFaultError):
    """The call was cancelled."""


class ModelFailedError(WorkerFaultError, RuntimeError):
    """The model itself raised an error.

    It is a `RuntimeError`, because code that handles a local model's errors, such as ComfyUI's, goes by the class.
    """


class WorkerMemoryError(ModelFailedError, _OutOfMemoryError):
    """The worker's device ran out of memory."""
