"""A session with one worker: what a client asks of it, and the parts that see to that."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from time import perf_counter
from typing import Any

import torch

from ..errors import ExchangeTimeoutError, MessageError, OffloadError, UnsupportedRunError
from ..io.buffers import on_host
from ..io.tree import PackedTree, Tree, pack, pack_call
from ..protocol.capabilities import AUTOCAST, STRIDES, knows
from ..protocol.messages import Forward, ModelEntry, ModelRef, SampleJob, Welcome, made
from ..transport.base import Check, Transport
from .call import Call, refuse_gradients
from .cancel import tell_of_cancel
from .encoding.digest_cache import DigestCache
from .encoding.link import Link
from .encoding.plain_tensors import plain_tensors
from .encoding.policy import EncodingPolicy
from .exchanges import Exchanges, new_request
from .forks import tell_of_forks
from .forward_calls import ForwardCalls
from .handshake import Handshake
from .offload_estimate import OffloadEstimate, OffloadEstimator, RunShape
from .options import SessionOptions
from .remote_model import OnProgress, RemoteModel
from .sampling_runs import SamplingRuns
from .timings import CallTimings
from .torch_state import autocast_on, refuse_default_dtype
from .uploads import UploadExchange
from .version_check import warn_of_skew
from .weight_patches import HookPatches, PatchUploads, WeightPatches

__all__ = ["Session", "SessionOptions"]

_CPU = torch.device("cpu")
_NO_AUTOCAST = f"the worker lacks the capability {AUTOCAST!r}, so update comfy-gpu-offload there"


class Session:
    """A worker, as one client sees it. Thread-safe.

    Attributes:
        client: this session's random name, by which the worker is fair among clients.
    """

    def __init__(
        self, transport: Transport, options: SessionOptions | None = None, check: Check | None = None
    ) -> None:
        """Says hello. `check` is called while that takes long; what it raises ends it.

        Raises:
            TransportError: the worker cannot be reached.
            WorkerFaultError: it refused: a wrong token, or another protocol.
            UnsupportedCodecError: it does not know what tensors would be stored by.
        """
        self._transport = transport
        self._options = options or SessionOptions()
        self._exchanges = Exchanges(transport, self._options.limits)
        self._handshake = Handshake(self._exchanges, self._options, new_request(), check)
        self._begin(self._handshake.client)
        warn_of_skew(self.welcome, self._options.comfyui)
        tell_of_forks(self)

    def _begin(self, client: str) -> None:
        """Set up all that belongs to one client in one process: its name, what its worker holds, its locks."""
        self.client = self._handshake.client = client
        options, exchanges, handshake = self._options, self._exchanges, self._handshake
        self._link = Link(exchanges, options, client)
        self._digests = DigestCache(self.welcome.limits.store_bytes)
        self._policy = EncodingPolicy(options, handshake, self._link, self._digests)
        exchange = UploadExchange(exchanges, options, handshake)
        uploads = PatchUploads(exchange, client, lambda: self._policy.codec, options.uploads_at_once)
        self._calls = ForwardCalls(exchanges, options, handshake, self._digests, uploads)
        self._runs = SamplingRuns(exchanges, options, handshake, self._digests, uploads)
        self._estimator = OffloadEstimator(self._link)
        self._estimating = threading.Lock()

    def forked(self) -> None:
        """Become a client of one's own, in a process that was forked from the one that made this session.

        Connections, names and what predictions go on from belong to the other process, which goes on using them.
        """
        self._transport.forked()
        if self._options.capture is not None:
            self._options.capture.forked()
        self._begin(new_request())

    @property
    def welcome(self) -> Welcome:
        """What the worker last said of itself."""
        return self._handshake.welcome

    def models(self, *, check: Check | None = None) -> tuple[ModelEntry, ...]:
        """Ask the worker anew for what it can load.

        `check` is called several times a second while it is waited for; what it raises ends the wait.
        """
        return self._handshake.renew(check).models

    def model(self, name: str, weight_dtype: str = "default", *, check: Check | None = None) -> RemoteModel:
        """The worker's model of that name, loaded there if it is not.

        `check` is called several times a second while this model's calls wait; what it raises ends the call
        and cancels it at the worker.

        Raises:
            MessageError: no model has a name of that length.
            UnknownModelError: the worker has no such model.
            ModelFailedError: it cannot load it.
            TransportError: the worker cannot be reached.
        """
        description, details = self._handshake.load(
            made(ModelRef, {"name": name, "weight_dtype": weight_dtype}), check
        )
        return RemoteModel(self, description, details, check=check)

    def probe(self, up_bytes: int = 0, down_bytes: int = 0, *, check: Check | None = None) -> float:
        """Seconds that so many bytes of noise take to the worker and from it, without what the worker spends.

        Raises:
            TransportError: the worker cannot be reached.
            WorkerFaultError: it refused.
        """
        return self._link.probe(up_bytes, down_bytes, check=check)

    def estimate(self, shape: RunShape, compute_s: float | None, *, check: Check | None = None) -> OffloadEstimate:
        """Estimate how long a run of that shape will take, offloaded either way; probes the link where needed.

        Raises:
            TransportError: the worker cannot be reached.
        """
        with self._estimating:
            return self._estimator.estimate(shape, compute_s, check)

    @property
    def stored_share(self) -> float:
        """Return the share of a latent's bytes that is left when this session's codec has stored it, roughly."""
        return self._policy.stored_share

    @property
    def call_shares(self) -> tuple[float, float]:
        """Return the shares of a call's latent and of its reply that are sent in a deterministic run, roughly."""
        return self._policy.call_shares

    def close(self) -> None:
        """Closes the session's connections."""
        self._transport.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def forward(
        self,
        ref: ModelRef,
        fingerprint: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        check: Check | None = None,
        device: torch.device | None = None,
        patches: WeightPatches | None = None,
        hooks: HookPatches | None = None,
    ) -> tuple[Tree, CallTimings]:
        """One forward call; the result's tensors are on `device`, or on the CPU.

        `patches` are on the weights, and over them what `hooks` say.

        A call that the connection lost is sent again under its own name, so it is computed once where the
        worker still knows it, and again where the worker was restarted.

        Raises:
            UnsupportedValueError: an argument cannot travel.
            UnsupportedStateError: torch's state around the call cannot.
            TransportError: the worker could not be reached for as long as the retry policy says.
            WorkerFaultError: the worker refused, or the model failed.
        """
        self._policy.probe_link_if_due(check)
        started = perf_counter()
        packed, host = self._travelling(pack_call(args, kwargs))
        autocast = autocast_on(device or _CPU, None if self._knows(AUTOCAST) else _NO_AUTOCAST)
        encoding = self._policy.begin(ref, host)
        message = Forward(
            request=new_request(),
            client=self.client,
            model=ref,
            fingerprint=fingerprint,
            reply_codec=encoding.codec.name,
            patches=None if patches is None else patches.ref,
            hooks=None if hooks is None else hooks.ref,
            reply_strides=self._knows(STRIDES) or None,
            autocast=autocast,
        )
        call = Call(message, packed, host, device or _CPU, encoding, patches, hooks)
        call.begun, call.pack_s = started, perf_counter() - started
        try:
            value, timings = self._calls.answer(call, check)
        except BaseException as error:
            self._abandon(call, error)
            raise
        encoding.observe(timings)
        if self._options.capture is not None:
            self._options.capture.call(packed.paths, host, value)
        return value, timings

    def sample(
        self,
        ref: ModelRef,
        fingerprint: str,
        fields: Mapping[str, Any],
        job: Tree,
        on_progress: OnProgress,
        *,
        check: Check | None = None,
        device: torch.device | None = None,
        patches: WeightPatches | None = None,
    ) -> tuple[Tree, CallTimings]:
        """A whole sampling run as one job; the result's tensors are on `device`, or on the CPU.

        `fields` are those of `SampleJob` that say how to sample, `job` its tree. A connection that is lost is
        taken up again where it broke; a worker that was restarted begins anew, and gives the same result.

        Raises:
            UnsupportedRunError: a field has a value that no worker takes.
            UnsupportedValueError: something in `job` cannot travel.
            UnsupportedStateError: torch's state around the run cannot.
            TransportError: the worker could not be reached for as long as the retry policy says.
            WorkerFaultError: the worker refused, or the model failed.
        """
        started = perf_counter()
        autocast_on(device or _CPU, "a whole loop at the worker computes without, so run each step")
        encoding = self._policy.begin_run(ref)
        own = {
            "request": new_request(),
            "client": self.client,
            "model": ref,
            "fingerprint": fingerprint,
            "reply_codec": encoding.codec.name,
            "patches": None if patches is None else patches.ref,
            "reply_strides": self._knows(STRIDES) or None,
        }
        try:
            message = made(SampleJob, {**own, **fields})
        except MessageError as error:
            raise UnsupportedRunError(f"a worker does not take its {error}") from None
        packed, host = self._travelling(pack(job, "job"))
        call = Call(message, packed, host, device or _CPU, encoding, patches)
        call.begun, call.pack_s = started, perf_counter() - started
        try:
            return self._runs.answer(call, on_progress, check)
        except BaseException as error:
            self._abandon(call, error)
            raise

    def _abandon(self, call: Call, error: BaseException) -> None:
        # A call that ended by our own word, or by its timeout, may still be running there.
        if isinstance(error, ExchangeTimeoutError) or not isinstance(error, OffloadError):
            tell_of_cancel(self._exchanges, call.message.request)
        call.encoding.abandon()

    def _travelling(self, packed: PackedTree) -> tuple[PackedTree, tuple[torch.Tensor, ...]]:
        """Return what travels, and its tensors on the CPU."""
        refuse_gradients(packed)
        refuse_default_dtype()
        host = tuple([on_host(tensor) for tensor in packed.tensors])
        return packed, host if self._knows(STRIDES) else plain_tensors(packed, host)

    def _knows(self, capability: str) -> bool:
        return knows(self.welcome, capability)
