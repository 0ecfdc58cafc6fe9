"""The one place where a session decides how tensors are encoded, and the encoding of one call.

`EncodingPolicy.begin` decides for a forward call: the codec, whether its latent is predicted, which tensors are
named by digest. The `Encoding` that it returns goes with the call from its first frame to its reply, and learns
from its timings (`Encoding.observe`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

import torch

from ...errors import OffloadError
from ...io import codecs
from ...io.buffers import on_host
from ...io.frame import Part
from ...io.kept.kept_tensor import plain
from ...io.tree import PackedTree
from ...protocol.capabilities import PREDICTED, known_names
from ...protocol.envelope import Envelope
from ...protocol.messages import DerivedTensor, FaultCode, ModelRef, Prediction, Result
from ...transport.base import Carrier, Check
from ..background_work import BackgroundWork
from ..handshake import Handshake
from ..model_call import ModelCall
from ..options import SessionOptions
from ..timings import CallTimings
from ..version_check import refuse_unknown_codec
from .adaptive_choice import AdaptiveChoice, adaptive_choice
from .digest_cache import DigestCache, NamedTensor
from .link_speed import Prober
from .predicted_runs import PREDICTED_SHARES, PredictedCall, PredictedRuns
from .step_time import EncodingKind, expected_cost

logger = logging.getLogger(__name__)

# Takes a call's timings, and uncompressed bytes: of its first tensor, of all tensors sent, and of the reply's.
_Learn = Callable[[CallTimings, tuple[int, int, int]], None]


class Encoding:
    """The encoding of one call's tensors, from its first frame to its reply. For one thread.

    Attributes:
        codec: stores the tensors of its frames, both ways.
        derived: how the worker makes tensors of the last frame that were sent without data.
    """

    def __init__(
        self,
        codec: codecs.Codec | codecs.Chooser,
        digests: DigestCache,
        model: str,
        predicted: PredictedCall | None = None,
        learn: _Learn | None = None,
    ) -> None:
        self.codec = codec
        self._digests = digests
        self._model = model
        self._predicted = predicted
        self._learn = learn
        self.derived: tuple[DerivedTensor, ...] = ()
        self._names = True
        self._first_bytes: int | None = None
        self._raw_up = self._raw_down = 0

    @property
    def prediction(self) -> Prediction | None:
        """Return what the call's message says about prediction, or None if it says nothing."""
        return None if self._predicted is None else self._predicted.message

    def parts(self, packed: PackedTree, host: tuple[torch.Tensor, ...]) -> list[Part]:
        """Return the parts of the call's next frame: predicted, named by digest, or as they are.

        `host` holds the tensors of `packed` on the CPU, or as the worker keeps them.
        """
        first = None if self._predicted is None else self._predicted.payload
        named: tuple[torch.Tensor | NamedTensor, ...]
        if self._names:
            named = self._digests.named(host)
            parts = self._digests.parts(self._model, packed, named, first)
        else:
            named = whole = tuple([on_host(plain(tensor)) for tensor in host])
            sent = whole if first is None else (first, *whole[1:])
            parts = [Part(path, tensor) for path, tensor in zip(packed.paths, sent, strict=True)]
        derivations = (tensor.derivation for tensor in named if isinstance(tensor, NamedTensor))
        made = {each.name: each for each in derivations if each is not None}
        self.derived = tuple(map(DerivedTensor.of, made.values()))
        self._first_bytes = host[0].nbytes if host else None
        self._raw_up = sum(tensor.nbytes for tensor, part in zip(named, parts, strict=True) if not part.held)
        return parts

    def decoded(self, result: Result, reply: Envelope, parts: list[Part]) -> Envelope:
        """Return `reply`, whose message is `result`, with a predicted first tensor restored.

        The worker that answered has received `parts`, which is remembered.

        Raises:
            CodecError: the prediction gives another tensor here than at the worker.
            MessageError: the reply is predicted, and that was not asked for.
        """
        kept = [Part(each.name, each.tensor, each.digest) for each in reply.tensors if each.tensor is not None]
        self._digests.delivered(result.instance, [*parts, *kept])
        if self._predicted is not None:
            reply = self._predicted.finish(result.prediction, reply)
        self._raw_down = sum(each.tensor.nbytes for each in reply.tensors if each.tensor is not None)
        return reply

    def name_nothing(self) -> None:
        """Send all tensors with their data in the next frame, and no digests.

        For a worker whose store is too small for all that one call names: what it is given again displaces what it
        had, and then lacks that.
        """
        self._names = False

    def send_plainly(self, code: FaultCode) -> None:
        """Send the first tensor unpredicted in the next frame, because of the fault `code`."""
        if self._predicted is None:
            return
        if code is FaultCode.UNKNOWN_HISTORY:
            self._predicted.begin_anew()
        else:
            self._predicted.fail()

    def observe(self, timings: CallTimings) -> None:
        """Learn from the timings of the call, which is done."""
        if self._learn is None or self._first_bytes is None:
            return
        try:
            self._learn(timings, (self._first_bytes, self._raw_up, self._raw_down))
        except Exception as error:  # the call is done, and its result matters more than what it teaches
            logger.warning("A call's timings could not be evaluated: %s", type(error).__name__)

    def abandon(self) -> None:
        """Give up: the call has failed."""
        if self._predicted is not None:
            self._predicted.abandon()


class EncodingPolicy:
    """The encodings of one session's calls. Thread-safe."""

    def __init__(
        self,
        options: SessionOptions,
        handshake: Handshake,
        link: Prober,
        digests: DigestCache,
        carrier: Callable[[], Carrier],
    ) -> None:
        """Decide between a fixed encoding and a choice by measurement, for which `link` is probed now and then.

        Args:
            options: of the session.
            handshake: knows what the worker can read.
            link: to the worker.
            digests: of what the worker holds.
            carrier: returns the way by which frames travel at present.

        Raises:
            UnsupportedCodecError: the worker cannot read what the fixed codec would store.
        """
        if options.begin_with is None:  # a choice by measurement is among what both sides know
            refuse_unknown_codec(handshake.welcome, options.codec)
        self._fixed = options.codec
        self._handshake = handshake
        self._link = link
        self._carrier = carrier
        self._digests = digests
        self._choice = adaptive_choice(options.begin_with, known_names(handshake.welcome))
        self._runs = PredictedRuns() if _may_predict(options) else None

    @property
    def codec(self) -> codecs.Codec | codecs.Chooser:
        """Return the codec for what is sent now and is not a forward call: uploads and whole runs."""
        return self._codec_for(self._kind)

    @property
    def stored_share(self) -> float:
        """Return the share of a latent's bytes that is left when `codec` has stored it, roughly."""
        return self.codec.typical_share

    @property
    def call_shares(self) -> tuple[float, float]:
        """Return the shares of a call's latent and of its reply that are sent in a deterministic run, roughly."""
        share = self.stored_share
        return (share, share) if self._runs_for(self._kind) is None else PREDICTED_SHARES

    def coding_s(self, raw_up: int, raw_down: int) -> float:
        """Return the expected seconds of coding, both sides, in a call with so many uncompressed bytes each way."""
        if self._choice is not None:
            return self._choice.coding_s(raw_up, raw_down)
        kind = EncodingKind.RAW if self.codec is codecs.RAW else EncodingKind.CODED
        predicts = self._runs_for(self._kind) is not None
        return expected_cost(EncodingKind.PREDICTED if predicts else kind, (), raw_up, raw_down).coding_s

    def probe_link_if_due(self, check: Check | None) -> None:
        """Measure the round trip before a call, where the choice needs it and `probe_link_early` does not.

        `check` is called while that takes long.
        """
        choice = self._choice
        if choice is not None and not self._carrier().is_shared and choice.takes_probe():
            self._probe(choice, check)

    def probe_link_early(self) -> None:
        """Measure the round trip for the next call, if it needs that, without anybody waiting for it.

        Called while nothing is sent. Where a connection carries one exchange at a time, the call would have to open
        another one meanwhile, which takes longer than to wait.
        """
        choice = self._choice
        if choice is None:
            return
        carrier = self._carrier()
        if carrier.is_shared and choice.takes_probe():
            choice.opened(carrier.opened_in_s)
            BackgroundWork(lambda check: self._probe(choice, check), "probe")

    def _probe(self, choice: AdaptiveChoice, check: Check | None) -> None:
        try:
            choice.probed(self._link.probe(check=check))
        except OffloadError as error:  # the call that follows fails in the same way, and reports it
            logger.debug("the round trip could not be measured: %s", type(error).__name__)

    def begin(self, model: ModelRef, host: tuple[torch.Tensor, ...]) -> Encoding:
        """Choose the encoding of a forward call to `model` with these tensors, which are on the CPU.

        A predicted call occupies its run until `Encoding.decoded` or `Encoding.abandon`: begin last, when nothing
        but the exchange can fail any more.
        """
        key, kind, learn = _key(model), None, None
        if self._choice is not None:
            kind = self._choice.begin(host[0].nbytes if host else 0)
            learn = partial(self._choice.observe, kind)
        runs = self._runs_for(kind)
        predicted = None if runs is None else runs.begin(key, host)
        return Encoding(self._codec_for(kind), self._digests, key, predicted, learn)

    def begin_run(self, model: ModelRef) -> Encoding:
        """Return the encoding of a whole run as one job: nothing is predicted, and nothing is learned from it."""
        return Encoding(self.codec, self._digests, _key(model))

    def begin_other(self, call: ModelCall) -> Encoding:
        """Return the encoding of a call that is no step of a run: nothing is predicted, nor learned from it.

        Pictures never lose a bit to a codec that the settings name for latents.
        """
        codec = self.codec
        known = codecs.PICTURE.name in self._handshake.welcome.codecs
        if call.has_pictures and known and (codec is codecs.AUTO or not codec.lossless):
            codec = codecs.PICTURE
        return Encoding(codec, self._digests, _key(call.ref))

    @property
    def _kind(self) -> EncodingKind | None:
        """Return the kind of encoding in use, or None where the codec is fixed."""
        return None if self._choice is None else self._choice.kind

    def _codec_for(self, kind: EncodingKind | None) -> codecs.Codec | codecs.Chooser:
        return self._fixed if kind is None else kind.codec

    def _runs_for(self, kind: EncodingKind | None) -> PredictedRuns | None:
        known = PREDICTED in self._handshake.capabilities
        return self._runs if kind in {None, EncodingKind.PREDICTED} and known else None


def _key(model: ModelRef) -> str:
    return "\n".join((model.name, model.weight_dtype, *model.files, *map("=".join, model.options)))


def _may_predict(options: SessionOptions) -> bool:
    """Return whether latents may be predicted.

    With a lossy codec the two sides would not hold the same tensors. Raw means that bytes cost nothing.
    """
    if options.begin_with is not None:
        return True
    return options.predict and options.codec != codecs.RAW and options.codec.lossless
