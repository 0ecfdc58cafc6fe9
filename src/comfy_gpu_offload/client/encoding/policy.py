"""How a session's tensors travel: the codec, what is predicted, and what that leaves of them."""

from __future__ import annotations

import logging

import torch

from ...errors import OffloadError
from ...io import codecs
from ...protocol.abilities import PREDICTED
from ...transport.base import Check
from ..call import Call
from ..handshake import Handshake
from ..offload_estimate import PREDICTED_SHARES, Prober, stored_share
from ..options import SessionOptions
from ..timings import CallTimings
from ..version_check import refuse_unknown_codec
from .adaptive_choice import Way, choice_for, codec_of
from .predicted_runs import Predictions, Tracked

logger = logging.getLogger(__name__)


class Ways:
    """The ways that one session's tensors may go, and the one that they go at present. Thread-safe.

    A way is None in a session that was told once for all how its tensors travel.
    """

    def __init__(self, options: SessionOptions, handshake: Handshake, link: Prober) -> None:
        """`link` is measured now and then, where the way is chosen by that.

        Raises:
            UnsupportedCodecError: the worker does not know what tensors would be stored by.
        """
        if options.begin_with is None:  # else it is chosen among what both know
            refuse_unknown_codec(handshake.welcome, options.codec)
        self._told = options.codec
        self._handshake = handshake
        self._link = link
        self._choice = choice_for(options.begin_with, handshake.welcome.codecs)
        self._predictions = Predictions() if _may_predict(options) else None

    @property
    def codec(self) -> codecs.Codec | codecs.Chooser:
        """What tensors are stored with at present."""
        return self.codec_for(self._way)

    @property
    def stored_share(self) -> float:
        """What is left of a latent's bytes when `codec` has stored it, roughly."""
        return stored_share(self.codec.name)

    @property
    def call_shares(self) -> tuple[float, float]:
        """What is left of a call's latent, up, and of its reply, with a deterministic sampler, roughly."""
        share = self.stored_share
        return (share, share) if self._predictions_for(self._way) is None else PREDICTED_SHARES

    def measure_now_and_then(self, check: Check | None) -> None:
        """Measures the round trip alone, where what tensors take is to be told from it."""
        if self._choice is None or not self._choice.wants_probe:
            return
        try:
            self._choice.probed(self._link.probe(check=check))
        except OffloadError as error:  # the call that follows says what is wrong
            logger.debug("the round trip could not be measured: %s", type(error).__name__)

    def begin(self, host: tuple[torch.Tensor, ...]) -> Way | None:
        """The way for a forward call with these tensors."""
        return None if self._choice is None else self._choice.begin(host[0].nbytes if host else 0)

    def codec_for(self, way: Way | None) -> codecs.Codec | codecs.Chooser:
        """What tensors that go that way are stored with."""
        return self._told if way is None else codec_of(way)

    def track(self, call: Call) -> Tracked | None:
        """How the first of the call's tensors is predicted; None where it is not."""
        predictions = self._predictions_for(call.way)
        return None if predictions is None else predictions.begin(call.model_key, call.host)

    def called(self, call: Call, timings: CallTimings) -> None:
        """Learns from a forward call that is done."""
        if self._choice is None or call.way is None or not call.host:
            return
        try:
            self._choice.called(call.way, timings, (call.host[0].nbytes, call.raw_up, call.raw_down))
        except Exception as error:  # the call is done, and worth more than what it teaches
            logger.warning("A call's times could not be learned from: %s", type(error).__name__)

    @property
    def _way(self) -> Way | None:
        return None if self._choice is None else self._choice.way

    def _predictions_for(self, way: Way | None) -> Predictions | None:
        known = self._handshake.welcome.codecs
        return self._predictions if way in {None, Way.PREDICTED} and PREDICTED in known else None


def _may_predict(options: SessionOptions) -> bool:
    """A codec that is lossy changes what the two sides have seen; raw means that bytes cost nothing."""
    if options.begin_with is not None:
        return True
    codec = options.codec
    return options.predict and codec != codecs.RAW and bool(getattr(codec, "lossless", True))
