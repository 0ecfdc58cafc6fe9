"""A session with one worker: everything that a client asks of it."""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from ..errors import ExchangeTimeoutError, MessageError, OffloadError, UnsupportedModuleError, UnsupportedRunError
from ..io.buffers import on_host
from ..io.kept.kept_tensor import KeptTensor
from ..io.tree import PackedTree, Tree, pack, pack_call
from ..protocol.capabilities import AUTOCAST, KEPT_RESULTS, MODULES, STRIDES
from ..protocol.messages import FORWARD, Fetch, Forward, Keep, ModelEntry, ModelRef, SampleJob, Welcome, made
from ..transport.base import Carrier, Check, Transport
from .call import Call, refuse_gradients
from .call_meter import CallMeter
from .cancel import cancel_at_worker
from .encoding.digest_cache import DigestCache
from .encoding.link import Link
from .encoding.plain_tensors import plain_tensors
from .encoding.policy import Encoding, EncodingPolicy
from .exchanges import Exchanges, new_request
from .forks import register_for_forks
from .forward_calls import ForwardCalls
from .handshake import Handshake
from .kept_results import KeptResult
from .model_call import ModelCall, ModelRun
from .model_downloads import FetchedModel, OnFetchProgress, WantedModel
from .model_files import ModelFiles, OnWork, PushPlace
from .offload_estimate import OffloadEstimate, OffloadEstimator, RunShape
from .options import SessionOptions
from .remote_model import RemoteModel
from .sampling_runs import SamplingRuns
from .session_parts import SessionParts
from .timings import CallTimings
from .torch_state import autocast_on, refuse_default_dtype
from .uploads import UploadExchange
from .version_check import warn_of_skew
from .weight_patches import PatchUploads

__all__ = ["Session", "SessionOptions"]

_NO_AUTOCAST = f"the worker lacks the capability {AUTOCAST!r}, so update comfy-gpu-offload there"


class Session:
    """One client's session with a worker. Thread-safe.

    Attributes:
        client: this session's random name, by which the worker takes turns among clients.
    """

    def __init__(
        self,
        transport: Transport,
        options: SessionOptions | None = None,
        check: Check | None = None,
        *,
        loading: ModelRef | None = None,
    ) -> None:
        """Say hello.

        Args:
            transport: carries frames to the worker.
            options: the defaults if None.
            check: called several times a second during waits; what it raises ends them.
            loading: a model that is asked for at the same time, because `model` will be.

        Raises:
            TransportError: the worker cannot be reached.
            WorkerFaultError: it refused: a wrong token, or another protocol.
            UnsupportedCodecError: it lacks the codec for tensors.
        """
        self._transport = transport
        self._options = options or SessionOptions()
        self._exchanges = Exchanges(transport, self._options.limits)
        self._handshake = Handshake(self._exchanges, self._options, new_request(), check, loading)
        self._begin(self._handshake.client)
        warn_of_skew(self.welcome, self._options.comfyui)
        register_for_forks(self)

    def _begin(self, client: str) -> None:
        """Set up everything that belongs to one client in one process: its name, its caches, its locks."""
        self.client = self._handshake.client = client
        options, exchanges, handshake = self._options, self._exchanges, self._handshake
        self._link = Link(exchanges, options, client)
        digests = DigestCache(self.welcome.limits.store_bytes)
        self._policy = EncodingPolicy(options, handshake, self._link, digests, lambda: self.carrier)
        exchange = UploadExchange(exchanges, options, handshake)
        uploads = PatchUploads(exchange, client, lambda: self._policy.codec, options.uploads_at_once)
        self._parts = SessionParts(exchanges, options, handshake, digests, uploads)
        self._calls = ForwardCalls(self._parts)
        self._runs = SamplingRuns(self._parts)
        self._estimator = OffloadEstimator(self._link)
        self._files = ModelFiles(exchanges, options, handshake)
        self._estimating = threading.Lock()

    def forked(self) -> None:
        """Become another client, in a process that was forked from the one that made this session.

        Connections, names and the history that predictions use belong to the parent, which goes on using them.
        """
        self._transport.forked()
        if self._options.capture is not None:
            self._options.capture.forked()
        self._handshake.abandon()  # its thread is the parent's
        self._begin(new_request())

    @property
    def welcome(self) -> Welcome:
        """The worker's latest description of itself."""
        return self._handshake.welcome

    def models(self, *, check: Check | None = None) -> tuple[ModelEntry, ...]:
        """Ask the worker which models it can load now, and return them.

        `check` is called several times a second during the wait; what it raises ends it.
        """
        return self._handshake.renew(check).models

    def model(self, name: str, weight_dtype: str = "default", *, check: Check | None = None) -> RemoteModel:
        """Return the worker's model of that name; the worker loads it if it has not yet.

        `check` is called several times a second while this model's calls wait; what it raises ends the call and
        cancels it at the worker.

        Raises:
            MessageError: the name is longer than any model's.
            UnknownModelError: the worker has no such model.
            ModelFailedError: it cannot load it.
            TransportError: the worker cannot be reached.
        """
        return self._loaded(made(ModelRef, {"name": name, "weight_dtype": weight_dtype}), check)

    def module(self, ref: ModelRef, *, check: Check | None = None) -> RemoteModel:
        """Return the worker's module of that reference: a text encoder, a VAE or another kind; as `model`.

        Raises:
            UnsupportedModuleError: the worker is of a release without modules.
            OffloadError: as `model`.
        """
        if not self.knows_modules:
            raise UnsupportedModuleError
        return self._loaded(ref, check)

    def _loaded(self, ref: ModelRef, check: Check | None) -> RemoteModel:
        description, details = self._handshake.load(ref, check)
        self._policy.probe_link_early()
        return RemoteModel(self, description, details, check=check)

    def fetch_model(
        self,
        source: str,
        *,
        on_progress: OnFetchProgress = lambda _: None,
        check: Check | None = None,
        **choices: Any,
    ) -> FetchedModel:
        """Have the worker download a model into its folders, and return where it is; at once if it has it.

        Args:
            source: ``https://…``, ``hf:org/name/file``, ``civitai:VERSION`` or ``sha256:HASH``; see `WantedModel`.
            on_progress: is told about once a second how far it is.
            check: called several times a second during waits; what it raises stops the download. Its part stays at
                the worker, and the next request for the same file continues it.
            choices: further fields of `WantedModel`, e.g. ``folder="vae"``.

        Raises:
            ModelDownloadsOffError: the worker takes no models from clients.
            MessageError: a field has a value that no worker takes.
            WorkerFaultError: the worker refuses the source or the file, has no room, or the download failed.
            TransportError: the worker cannot be reached.
        """
        return self._files.fetch(WantedModel(source, **choices), on_progress, check)

    def push_model(
        self,
        path: str | Path,
        folder: str,
        name: str | None = None,
        *,
        on_work: OnWork = lambda *_: None,
        check: Check | None = None,
        **choices: Any,
    ) -> FetchedModel:
        """Bring a model file of this machine to the worker: from its origin if that is known, else by sending it.

        Args:
            path: of a .safetensors or .gguf file.
            folder: ComfyUI's name of the folder that it is for, e.g. ``diffusion_models``.
            name: that it gets there; its own by default.
            on_work: takes what is being done, and the bytes that are done, of so many.
            check: called several times a second; what it raises ends the push, which can be continued later.
            choices: further fields of `PushPlace`: ``uploads=True`` sends the file in any case.

        Raises:
            ModelPushError: the file cannot be read or is changed meanwhile, or the worker takes no files.
            TransportError: the worker could not be reached for as long as the retry policy says.
            WorkerFaultError: it refused the file.
        """
        return self._files.push(Path(path), PushPlace(folder, name, **choices), on_work, check)

    def remove_model(self, folder: str, name: str, *, check: Check | None = None) -> None:
        """Remove a file that a client brought to the worker; if it is loaded there, it leaves memory first.

        Raises:
            ModelPushError: the worker lets clients change no files.
            TransportError: the worker could not be reached for as long as the retry policy says.
            WorkerFaultError: it refused: no client brought the file, or it is not there.
        """
        self._files.remove(folder, name, check)

    def probe(self, up_bytes: int = 0, down_bytes: int = 0, *, check: Check | None = None) -> float:
        """Return the seconds that so many bytes of noise take to the worker and back, without the worker's time.

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

    def coding_s(self, raw_up: int, raw_down: int) -> float:
        """Return the expected seconds of coding, both sides, in a call with so many uncompressed bytes each way."""
        return self._policy.coding_s(raw_up, raw_down)

    @property
    def carrier(self) -> Carrier:
        """The way by which frames travel to the worker, and why it is no faster one."""
        return self._transport.carrier

    @property
    def knows_modules(self) -> bool:
        """Return whether the worker has modules besides models, and calls other methods than ``forward``."""
        return MODULES in self._handshake.capabilities

    def close(self) -> None:
        """Close the session's connections."""
        self._handshake.abandon()
        self._transport.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def forward(self, call: ModelCall, check: Check | None = None) -> tuple[Tree, CallTimings]:
        """Return the result of one call of a module's method, and its timings.

        A call that the connection lost is sent again under its own name, so it is computed once if the worker still
        knows it, and again if the worker was restarted.

        Args:
            call: names the model and has the arguments.
            check: called several times a second; what it raises ends the call and cancels it at the worker.

        Raises:
            UnsupportedValueError: an argument cannot be sent; names it.
            UnsupportedStateError: torch's state around the call cannot be sent.
            UnsupportedModuleError: the worker's release calls ``forward`` alone, and this is another method.
            TransportError: the worker could not be reached for as long as the retry policy says.
            WorkerFaultError: the worker refused, or the model failed.
        """
        if call.method != FORWARD and not self.knows_modules:
            raise UnsupportedModuleError
        if call.is_step:
            self._policy.probe_link_if_due(check)
        started = perf_counter()
        packed, host = self._on_host(pack_call(call.args, call.kwargs))
        autocast = autocast_on(call.device, None if AUTOCAST in self._handshake.capabilities else _NO_AUTOCAST)
        encoding = self._policy.begin(call.ref, host) if call.is_step else self._policy.begin_other(call)
        fields = self._common_fields(call, encoding) | {"hooks": None if call.hooks is None else call.hooks.ref}
        keeps_replies = Fetch.capability in self._handshake.capabilities
        message = Forward(
            **fields,
            autocast=autocast,
            method=None if call.method == FORWARD else call.method,
            most_reply_bytes=self._options.most_reply_bytes if keeps_replies else None,
            keep_result=call.keep_result if self._may_keep else None,
        )
        meter = CallMeter(started)
        under_way = Call(
            message, packed, host, call.device, encoding, meter, call.patches, call.hooks, call.on_received
        )
        if message.keep_result == "digests":
            under_way.kept = KeptResult(self._parts.digests, partial(self._ask_again, call, check), call.device)
        try:
            value, timings = self._calls.answer(under_way, check)
        except BaseException as error:
            self._give_up(under_way, error)
            raise
        encoding.observe(timings)
        self._policy.probe_link_early()
        if self._options.capture is not None:
            self._options.capture.call(packed.paths, host, value)
        return value, timings

    def note_cast(self, source: torch.Tensor, made: torch.Tensor) -> None:
        """Have calls name `made` and not send it, if the worker has `source`, of which it is a cast."""
        if self._may_keep:
            self._parts.digests.note_cast(source, made)

    @property
    def _may_keep(self) -> bool:
        """Return whether the worker may keep results: later calls reach it, and nothing here writes them down."""
        # A queue gives each request to whichever worker is free, as it would a cancel.
        reaches_it = self._transport.carries_cancel
        return reaches_it and KEPT_RESULTS in self._handshake.capabilities and self._options.capture is None

    def _ask_again(self, call: ModelCall, check: Check | None, keep: Keep) -> Tree:
        value, _ = self.forward(replace(call, keep_result=keep), check)
        return value

    def sample(self, run: ModelRun, check: Check | None = None) -> tuple[Tree, CallTimings]:
        """Return the result of a whole sampling run as one job, and its timings.

        A run whose connection was lost is followed from where it was. A worker that was restarted begins it anew,
        and gives the same result.

        Args:
            run: names the model and has the job.
            check: as in `forward`.

        Raises:
            UnsupportedRunError: a field has a value that no worker takes.
            UnsupportedValueError: something in the job cannot be sent; names it.
            UnsupportedStateError: torch's state around the run cannot be sent.
            TransportError: the worker could not be reached for as long as the retry policy says.
            WorkerFaultError: the worker refused, or the model failed.
        """
        started = perf_counter()
        autocast_on(run.device, "a whole loop at the worker computes without, so run each step")
        encoding = self._policy.begin_run(run.ref)
        try:
            keep = {"keep_result": "data"} if self._may_keep else {}
            message = made(SampleJob, {**self._common_fields(run, encoding), **run.fields, **keep})
        except MessageError as error:
            raise UnsupportedRunError(f"a worker does not take its {error}") from None
        packed, host = self._on_host(pack(run.job, "job"))
        meter = CallMeter(started, keeps_lost=True)
        under_way = Call(message, packed, host, run.device, encoding, meter, run.patches)
        try:
            return self._runs.answer(under_way, run.on_progress, check)
        except BaseException as error:
            self._give_up(under_way, error)
            raise

    def _common_fields(self, asked: ModelCall | ModelRun, encoding: Encoding) -> dict[str, Any]:
        """Return the fields that the messages of a forward call and of a run have in common."""
        return {
            "request": new_request(),
            "client": self.client,
            "model": asked.ref,
            "fingerprint": asked.fingerprint,
            "reply_codec": encoding.codec.name,
            "patches": None if asked.patches is None else asked.patches.ref,
            "reply_strides": (STRIDES in self._handshake.capabilities) or None,
        }

    def _give_up(self, call: Call, error: BaseException) -> None:
        """Give up `call`, which ended in `error`; cancel it at the worker if it may still be running there."""
        # Ended by this side's own word or by its time-out.
        if isinstance(error, ExchangeTimeoutError) or not isinstance(error, OffloadError):
            cancel_at_worker(self._exchanges, call.message.request)
        call.encoding.abandon()

    def _on_host(self, packed: PackedTree) -> tuple[PackedTree, tuple[torch.Tensor, ...]]:
        """Return `packed`, and its tensors on the CPU.

        Raises:
            UnsupportedValueError: a tensor requires a gradient, or cannot be sent to a worker of an older release.
            UnsupportedStateError: torch's default dtype is not float32.
        """
        refuse_gradients(packed)
        refuse_default_dtype()
        host = tuple([self._here_or_kept(tensor) for tensor in packed.tensors])
        return packed, host if (STRIDES in self._handshake.capabilities) else plain_tensors(packed, host)

    def _here_or_kept(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a tensor on the CPU, or as it is if this session's worker keeps it."""
        if isinstance(tensor, KeptTensor):
            if self._may_keep and tensor.derivation(self._parts.digests) is not None:
                return tensor
            tensor = tensor.data_here()
        return on_host(tensor)
