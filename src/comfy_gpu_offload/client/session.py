"""A session with one worker: handshake, forward calls, resends, retries."""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from time import monotonic, perf_counter
from typing import Any

import torch

from ..errors import (
    CodecError,
    ConnectError,
    ConnectionLostError,
    ExchangeTimeoutError,
    HttpStatusError,
    MessageError,
    NoWorkerError,
    OffloadError,
    TooLargeError,
    TransportError,
)
from ..io import codecs
from ..io.buffers import aligned, on_host
from ..io.frame import DEFAULT_LIMITS, EncodedFrame, FrameLimits, Part
from ..io.tree import Tree, map_tensors, pack, pack_call
from ..protocol import history
from ..protocol.envelope import Envelope, open_frame, seal, seal_parts
from ..protocol.messages import (
    Cancel,
    Fault,
    FaultCode,
    Follow,
    Forward,
    Hello,
    ModelEntry,
    ModelRef,
    Probe,
    Probed,
    Progress,
    Result,
    SampleJob,
    Welcome,
    expect,
)
from ..transport.base import Check, Timeouts, Transport
from ..version import __version__
from .call import Call, Following, refuse_gradients
from .capture import Capture
from .codec_choice import Way, choice_for, codec_of
from .faults import error_of
from .plan import PREDICTED_SHARES, Plan, Planner, RunShape, stored_share
from .prediction import Predictions
from .recurrence import Recurrence
from .remote_model import OnProgress, RemoteModel
from .retry import Patience, RetryPolicy
from .skew import refuse_unknown_codec, warn_of_skew
from .timings import CallTimings
from .weight_patches import PatchUploads, WeightPatches

logger = logging.getLogger(__name__)

# A fault that lists missing tensors is answered with them; a worker that still lacks them has no room.
_MAX_RESENDS = 3
_PLAIN_AGAIN = {FaultCode.UNKNOWN_HISTORY, FaultCode.WRONG_PREDICTION}
_CPU = torch.device("cpu")
_CANCEL_TIMEOUTS = Timeouts(connect_s=2.0, exchange_s=5.0)


@dataclass(frozen=True)
class SessionOptions:
    """How a session behaves.

    Attributes:
        call: of one exchange.
        load_s: how long a model may take to load; asked for again where one exchange is shorter than that.
        exchange_limit_s: what stands in between ends longer exchanges, or None.
        comfyui: the client's own ComfyUI version, for the handshake.
        uploads_at_once: parts of an upload that are under way together.
        predict: whether latents may travel as what a prediction misses; only with a codec that is lossless.
        begin_with: how tensors travel until the session has measured what is fastest; None to stay with `codec` and
            `predict`, which do not count otherwise.
        capture: where each forward call is left, if anywhere.
    """

    call: Timeouts = field(default_factory=Timeouts)
    load_s: float = 900.0
    exchange_limit_s: float | None = None
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    codec: codecs.Codec | codecs.Chooser = codecs.RAW
    limits: FrameLimits = DEFAULT_LIMITS
    comfyui: str | None = None
    uploads_at_once: int = 4
    predict: bool = True
    begin_with: Way | None = None
    capture: Capture | None = None


class Session:
    """A worker, as one client sees it. Thread-safe.

    Attributes:
        client: this session's random name, by which the worker is fair among clients.
        welcome: what the worker last said of itself.
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
        self.client = secrets.token_hex(16)
        self.welcome, _ = self._hello_through_proxies(check)
        if self._options.begin_with is None:  # else it chooses among what both know
            refuse_unknown_codec(self.welcome, self._options.codec)
        self._recurrence = Recurrence(self.welcome.limits.store_bytes)
        self._choice = choice_for(self._options.begin_with, self.welcome.codecs)
        self._predictions = Predictions() if _may_predict(self._options) else None
        self._uploads = PatchUploads(self._upload, self.client, lambda: self._codec, self._options.uploads_at_once)
        self._planner = Planner(self)
        self._planning = threading.Lock()
        warn_of_skew(self.welcome, self._options.comfyui)

    def models(self) -> tuple[ModelEntry, ...]:
        """What the worker can load, asked anew."""
        self.welcome, _ = self._hello(None, self._options.call, None)
        return self.welcome.models

    def model(self, name: str, weight_dtype: str = "default", *, check: Check | None = None) -> RemoteModel:
        """The worker's model of that name, loaded there if it is not.

        `check` is called several times a second while this model's calls wait; what it raises ends the call
        and cancels it at the worker.

        Raises:
            UnknownModelError: the worker has no such model.
            ModelFailedError: it cannot load it.
            TransportError: the worker cannot be reached.
        """
        ref = ModelRef(name=name, weight_dtype=weight_dtype)
        welcome, details = self._hello_until_loaded(ref, check)
        if welcome.model is None:
            raise MessageError("the worker's welcome lacks the model that was asked for")
        return RemoteModel(self, welcome.model, details, check=check)

    def probe(self, up_bytes: int = 0, down_bytes: int = 0, *, check: Check | None = None) -> float:
        """Seconds that so many bytes of noise take to the worker and from it, without what the worker spends.

        Raises:
            TransportError: the worker cannot be reached.
            WorkerFaultError: it refused.
        """
        noise = torch.frombuffer(bytearray(secrets.token_bytes(max(1, up_bytes))), dtype=torch.uint8)[:up_bytes]
        frame = seal(Probe(client=self.client, reply_bytes=down_bytes), pack(noise, "noise"))
        started = perf_counter()
        reply = self._transport.exchange("hello", frame, self._options.call, check)
        elapsed = perf_counter() - started
        probed = expect(_raise_fault(open_frame(reply, self._options.limits)), Probed)
        return max(0.0, elapsed - probed.worker_s)

    def plan(self, shape: RunShape, compute_s: float | None, *, check: Check | None = None) -> Plan:
        """How long a run of that shape will take, each way; measures the link where it has not been yet.

        Raises:
            TransportError: the worker cannot be reached.
        """
        with self._planning:
            return self._planner.plan(shape, compute_s, check)

    @property
    def stored_share(self) -> float:
        """What is left of a latent's bytes when this session's codec has stored it, roughly."""
        return stored_share(self._codec.name)

    @property
    def call_shares(self) -> tuple[float, float]:
        """What is left of a call's latent, up, and of its reply, with a deterministic sampler, roughly."""
        share = self.stored_share
        return (share, share) if self._predictions_for(self._way) is None else PREDICTED_SHARES

    @property
    def _way(self) -> Way | None:
        """How tensors travel at present; None where it was said once for all."""
        return None if self._choice is None else self._choice.way

    @property
    def _codec(self) -> codecs.Codec | codecs.Chooser:
        return self._codec_for(self._way)

    def _codec_for(self, way: Way | None) -> codecs.Codec | codecs.Chooser:
        return self._options.codec if way is None else codec_of(way)

    def _predictions_for(self, way: Way | None) -> Predictions | None:
        return self._predictions if way in {None, Way.PREDICTED} and history.NAME in self.welcome.codecs else None

    def _probe_now_and_then(self, check: Check | None) -> None:
        """Measures the round trip alone, where what tensors take is to be told from it."""
        if self._choice is None or not self._choice.wants_probe:
            return
        try:
            self._choice.probed(self.probe(check=check))
        except OffloadError as error:  # the call that follows says what is wrong
            logger.debug("the round trip could not be measured: %s", type(error).__name__)

    def close(self) -> None:
        """Closes the session's connections."""
        self._transport.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _hello_through_proxies(self, check: Check | None) -> tuple[Welcome, Any]:
        """Says hello; again where a proxy answers for a worker that is still starting."""
        patience = Patience(self._options.retry, check)
        while True:
            try:
                return self._hello(None, self._options.call, check)
            except HttpStatusError as error:
                if not error.retryable or isinstance(error, NoWorkerError) or not patience.wait():
                    raise
                logger.info("The worker is not there yet and is tried again: %s", error)

    def _hello_until_loaded(self, ref: ModelRef, check: Check | None) -> tuple[Welcome, Any]:
        """Asks for a model until it is loaded: a proxy may end the request sooner, and the worker goes on."""
        patience = Patience(RetryPolicy(total_s=self._options.load_s), check)
        deadline = monotonic() + self._options.load_s
        while True:
            try:
                return self._hello(ref, self._load_timeouts(deadline), check)
            except TransportError as error:
                if not error.retryable or isinstance(error, NoWorkerError | ConnectError) or not patience.wait():
                    raise
                logger.info("The model is not loaded yet and is asked for again: %s", error)

    def _load_timeouts(self, deadline: float) -> Timeouts:
        left = max(1.0, deadline - monotonic())
        longest = self._options.exchange_limit_s
        return replace(self._options.call, exchange_s=left if longest is None else min(left, longest))

    def _hello(self, ref: ModelRef | None, timeouts: Timeouts, check: Check | None) -> tuple[Welcome, Any]:
        hello = Hello(
            client=self.client,
            package=__version__,
            torch=torch.__version__,
            comfyui=self._options.comfyui,
            codecs=(*codecs.names(), history.NAME),
            model=ref,
        )
        reply = self._transport.exchange("hello", seal(hello), timeouts, check)
        envelope = open_frame(reply, self._options.limits)
        return expect(_raise_fault(envelope), Welcome), envelope.unpack()

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
    ) -> tuple[Tree, CallTimings]:
        """One forward call; the result's tensors are on `device`, or on the CPU. `patches` are on the weights.

        A call that the connection lost is sent again under its own name, so it is computed once where the
        worker still knows it, and again where the worker was restarted.

        Raises:
            UnsupportedValueError: an argument cannot travel.
            TransportError: the worker could not be reached for as long as the retry policy says.
            WorkerFaultError: the worker refused, or the model failed.
        """
        self._probe_now_and_then(check)
        started = perf_counter()
        packed = pack_call(args, kwargs)
        refuse_gradients(packed)
        host = tuple([on_host(tensor) for tensor in packed.tensors])
        way = None if self._choice is None else self._choice.begin(host[0].nbytes if host else 0)
        codec = self._codec_for(way)
        message = Forward(
            request=secrets.token_hex(16),
            client=self.client,
            model=ref,
            fingerprint=fingerprint,
            reply_codec=codec.name,
            patches=None if patches is None else patches.ref,
        )
        call = Call(message, packed, host, device or _CPU, 0.0, codec, patches)
        if (predictions := self._predictions_for(way)) is not None:
            call.tracked = predictions.begin(call.model_key, host)
        call.pack_s = perf_counter() - started
        try:
            value, timings = self._complete(call, check)
        except BaseException as error:
            # A call that ended by our own word, or by its timeout, may still be running there.
            if isinstance(error, ExchangeTimeoutError) or not isinstance(error, OffloadError):
                self._cancel(call.message.request)
            if call.tracked is not None:
                call.tracked.abandon()
            raise
        if self._choice is not None and way is not None and host:
            raw = (host[0].nbytes, call.raw_up, call.raw_down)
            self._choice.called(way, timings, raw)
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
            UnsupportedValueError: something in `job` cannot travel.
            TransportError: the worker could not be reached for as long as the retry policy says.
            WorkerFaultError: the worker refused, or the model failed.
        """
        started = perf_counter()
        packed = pack(job, "job")
        refuse_gradients(packed)
        codec = self._codec
        message = SampleJob(
            request=secrets.token_hex(16),
            client=self.client,
            model=ref,
            fingerprint=fingerprint,
            reply_codec=codec.name,
            patches=None if patches is None else patches.ref,
            **fields,
        )
        host = tuple([on_host(tensor) for tensor in packed.tensors])
        call = Call(message, packed, host, device or _CPU, perf_counter() - started, codec, patches)
        try:
            return self._follow_to_its_end(call, on_progress, check)
        except BaseException as error:
            if isinstance(error, ExchangeTimeoutError) or not isinstance(error, OffloadError):
                self._cancel(message.request)
            raise

    def _follow_to_its_end(
        self, call: Call, on_progress: OnProgress, check: Check | None
    ) -> tuple[Tree, CallTimings]:
        self._uploads.ensure(call.patches, check)
        patience, came_to = Patience(self._options.retry, check), 0
        following = Following(on_progress)
        resends = 0
        while True:
            try:
                answer = self._stream_attempt(call, following, check)
            except TransportError as error:
                if following.step > came_to:  # another loss than the last one
                    patience, came_to = Patience(self._options.retry, check), following.step
                if not error.retryable or isinstance(error, ExchangeTimeoutError):
                    raise
                logger.warning("The connection was lost in the middle of a run and is made again: %s", error)
                if not patience.wait():
                    raise
                continue
            if not isinstance(answer, Fault):
                return answer
            following.is_known, following.step = False, 0
            if answer.code is FaultCode.MISSING_TENSORS and resends < _MAX_RESENDS:
                resends += 1
                self._recurrence.lacking(answer.missing)
            elif not answer.retryable or not patience.wait():
                raise error_of(answer)
            elif answer.code is FaultCode.UNKNOWN_PATCHES and call.patches is not None:
                self._uploads.define(call.patches, check)

    def _stream_attempt(
        self, call: Call, following: Following, check: Check | None
    ) -> tuple[Tree, CallTimings] | Fault:
        """One stream, of the whole job or of the rest of one that the worker has."""
        t0 = perf_counter()
        parts: list[Part] = []
        if following.is_known:
            frame = seal(Follow(request=call.message.request, after=following.step))
        else:
            parts = self._recurrence.parts(call.model_key, call.packed, call.host)
            frame = seal_parts(call.message, call.packed.skeleton, parts, call.codec)
            self._check_size(frame)
        t1 = perf_counter()
        call.encode_s += t1 - t0
        call.bytes_up += frame.size_bytes
        call.exchanges += 1
        try:
            envelope = self._last_of_stream(call, frame, following, check)
        finally:
            t2 = perf_counter()
            call.exchange_s += t2 - t1
        if isinstance(envelope.message, Fault):
            return envelope.message
        result = expect(envelope.message, Result)
        self._recurrence.delivered(result.instance, parts)
        value = map_tensors(envelope.unpack(), lambda tensor: aligned(tensor.to(call.device)))
        return value, call.finish(result, perf_counter() - t2)

    def _last_of_stream(
        self, call: Call, frame: EncodedFrame, following: Following, check: Check | None
    ) -> Envelope:
        """What ends the run; its progress is passed on meanwhile."""
        with closing(self._transport.stream("sample", frame, self._options.call, check)) as replies:
            for reply in replies:
                call.bytes_down += len(reply)
                envelope = open_frame(reply, self._options.limits)
                if not isinstance(envelope.message, Progress):
                    return envelope
                following.progress(envelope)
                if check is not None:  # steps may come faster than a transport looks for an interrupt
                    check()
        raise ConnectionLostError("The worker's stream ended before the run did.")

    def _complete(self, call: Call, check: Check | None) -> tuple[Tree, CallTimings]:
        self._uploads.ensure(call.patches, check)
        patience = Patience(self._options.retry, check)
        resends = 0
        while True:
            try:
                answer = self._attempt(call, check)
            except TransportError as error:
                if not error.retryable or isinstance(error, ExchangeTimeoutError):
                    raise
                logger.warning("The worker was lost in the middle of a run and is tried again: %s", error)
                if not patience.wait():
                    raise
                continue
            if not isinstance(answer, Fault):
                return answer
            if answer.code is FaultCode.MISSING_TENSORS and resends < _MAX_RESENDS:
                resends += 1
                self._recurrence.lacking(answer.missing)
                logger.debug("the worker lacks %d tensors; they are sent again", len(answer.missing))
            elif answer.code in _PLAIN_AGAIN and call.tracked is not None and call.tracked.message is not None:
                logger.info("A prediction did not hold (%s), and the call is made again.", answer.code.value)
                self._recurrence.lacking(answer.missing)
                call.send_plainly(answer.code)
            elif not answer.retryable or not patience.wait():
                raise error_of(answer)
            elif answer.code is FaultCode.UNKNOWN_PATCHES and call.patches is not None:
                self._uploads.define(call.patches, check)

    def _attempt(self, call: Call, check: Check | None) -> tuple[Tree, CallTimings] | Fault:
        """One exchange; the call's timings grow with each."""
        t0 = perf_counter()
        message, payload = call.sent
        parts = self._recurrence.parts(call.model_key, call.packed, call.host, payload)
        t1 = perf_counter()
        frame = seal_parts(message, call.packed.skeleton, parts, call.codec)
        self._check_size(frame)
        t2 = perf_counter()
        call.pack_s += t1 - t0
        call.encode_s += t2 - t1
        call.raw_up = sum(host.nbytes for host, part in zip(call.host, parts, strict=True) if not part.held)
        call.bytes_up += frame.size_bytes
        call.exchanges += 1
        try:
            reply = self._transport.exchange("forward", frame, self._options.call, check)
        finally:
            t3 = perf_counter()
            call.exchange_s += t3 - t2
        envelope = open_frame(reply, self._options.limits)
        if isinstance(envelope.message, Fault):
            return envelope.message
        call.bytes_down += len(reply)
        result = expect(envelope.message, Result)
        self._recurrence.delivered(result.instance, parts)
        if call.tracked is not None:
            try:
                envelope = call.tracked.finish(result.prediction, envelope)
            except CodecError as error:
                return Fault(code=FaultCode.WRONG_PREDICTION, message=str(error)[:4000])
        call.raw_down = sum(each.tensor.nbytes for each in envelope.tensors if each.tensor is not None)
        value = map_tensors(envelope.unpack(), lambda tensor: aligned(tensor.to(call.device)))
        timings = call.finish(result, perf_counter() - t3)
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("forward %s: %s", call.message.model.name, timings.summary())
        return value, timings

    def _upload(self, frame: EncodedFrame, check: Check | None) -> Envelope:
        """The reply to a frame that may be sent twice; the worker does not compute for it."""
        patience = Patience(self._options.retry, check)
        self._check_size(frame)
        while True:
            try:
                reply = self._transport.exchange("hello", frame, self._options.call, check)
            except TransportError as error:
                if not error.retryable or not patience.wait():
                    raise
                logger.warning("The worker was lost in the middle of an upload and is tried again: %s", error)
                continue
            envelope = open_frame(reply, self._options.limits)
            fault = envelope.message
            again = isinstance(fault, Fault) and fault.retryable and fault.code is not FaultCode.MISSING_TENSORS
            if not again or not patience.wait():
                return envelope

    def _check_size(self, frame: EncodedFrame) -> None:
        limit = self.welcome.limits.frame_bytes
        if frame.size_bytes > limit:
            raise TooLargeError(
                f"This call takes {frame.size_bytes} bytes, over the {limit} bytes allowed by the worker "
                "(COMFY_GPU_OFFLOAD_FRAME_BYTES there).",
                code=FaultCode.TOO_LARGE.value,
            )

    def _cancel(self, request: str) -> None:
        """Tells the worker, without keeping the caller: it has been interrupted and wants to go on."""
        if not self._transport.carries_cancel:
            return

        def tell() -> None:
            try:
                self._transport.exchange("cancel", seal(Cancel(request=request)), _CANCEL_TIMEOUTS)
            except OffloadError as error:
                logger.debug("the worker could not be told of a cancelled call: %s", type(error).__name__)

        threading.Thread(target=tell, name="comfy-gpu-offload-cancel", daemon=True).start()


def _may_predict(options: SessionOptions) -> bool:
    """A codec that is lossy changes what the two sides have seen; raw means that bytes cost nothing."""
    if options.begin_with is not None:
        return True
    codec = options.codec
    return options.predict and codec != codecs.RAW and bool(getattr(codec, "lossless", True))


def _raise_fault(envelope: Envelope) -> Any:
    if isinstance(envelope.message, Fault):
        raise error_of(envelope.message)
    return envelope.message
