"""The sampling runs of a session whose latents are predicted: which run a call belongs to. See docs/prediction.md.

A session is not told where a run begins or ends, so a call is assigned to the run whose history predicts its latent
best, or begins a new one. What a history is and how it predicts, `prediction/` knows.
"""

from __future__ import annotations

import secrets
import threading
from dataclasses import dataclass, replace
from typing import Final

import torch

from ...errors import MessageError
from ...prediction.coded_tensor import CodedTensor, payload_of, tensor_of
from ...prediction.history import History, HistoryEntry
from ...prediction.latent import LatentBytes, Layout, layout_of
from ...protocol.envelope import Envelope
from ...protocol.messages import Coded, Prediction

PREDICTED_SHARES: Final = (0.1, 0.35)
"""The shares of a call's latent and of its reply that prediction leaves: docs/benchmarks.md, "Prediction"."""

# What a prediction needs besides its payload takes some hundred bytes.
_SMALLEST_BYTES = 2048
# After so many runs in a row with a worker that computes differently, only every eighth run is predicted: the
# worker may be another one by then.
_FAILURES = 2
_RETRY_EVERY = 8
_RUNS_KEPT = 4
_BYTES_KEPT = 512 * 1024**2


@dataclass
class Run:
    """Calls of one model in a row, each predicted from those before it.

    Attributes:
        model: the key of the model that it calls.
        name: the name of its history at the worker.
        predicts: whether its latents are predicted, and not only compared, to notice where another run begins.
        is_busy: whether a call of it is under way.
        restarts: how often the worker did not know its history.
    """

    model: str
    history: History
    name: str = ""
    predicts: bool = True
    is_busy: bool = True
    restarts: int = 0


class PredictedRuns:
    """The runs of one session. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs: list[Run] = []  # least recently used first
        self._failures = self._skipped = 0

    def begin(self, model: str, tensors: tuple[torch.Tensor, ...]) -> PredictedCall | None:
        """Assign a call with these CPU tensors to a run; None if its first tensor cannot be predicted."""
        if not tensors or tensors[0].nbytes < _SMALLEST_BYTES:
            return None
        latent = LatentBytes.of(tensors[0])
        layout = layout_of(latent)
        if layout is None:
            return None
        candidates = self._candidates(model, layout)
        try:
            matched = [(run, match) for run in candidates if (match := run.history.match(latent)) is not None]
        except BaseException:  # an interrupt, which would leave them busy for good
            self._settle(None, candidates)
            raise
        found = min(matched, key=lambda each: each[1].unexplained, default=None)
        if found is None or not found[1].is_related:
            self._settle(None, candidates)
            fresh = Run(model, History(layout), secrets.token_hex(16), predicts=self._is_due())
            return PredictedCall(self, fresh, latent) if self._admit(fresh) else None
        run, match = found
        self._settle(run, candidates)
        if not run.predicts:
            return PredictedCall(self, run, latent)
        entry, coded = run.history.encode_input(latent, match)
        return PredictedCall(self, run, latent, entry, coded)

    def done(self, run: Run, *, held: bool) -> None:
        """Record a call of the run as done; `held`: a prediction in it gave the same at both ends."""
        with self._lock:
            run.is_busy = False
            if held:
                self._failures = self._skipped = 0

    def failed(self) -> None:
        """Record that a prediction gave another tensor at the worker."""
        with self._lock:
            self._failures += 1

    def drop(self, run: Run) -> None:
        """Forget the run: it is not known what the worker's history of it holds."""
        with self._lock:
            if run in self._runs:
                self._runs.remove(run)

    def _is_due(self) -> bool:
        with self._lock:
            if self._failures < _FAILURES:
                return True
            self._skipped += 1
            return self._skipped % _RETRY_EVERY == 0

    def _candidates(self, model: str, layout: Layout) -> list[Run]:
        """Return the idle runs of that model and layout, which are busy from now on."""
        with self._lock:
            idle = [run for run in self._runs if not run.is_busy]
            found = [run for run in idle if run.model == model and run.history.layout == layout]
            for run in found:
                run.is_busy = True
            return found

    def _settle(self, chosen: Run | None, candidates: list[Run]) -> None:
        """Release all candidates but the one chosen, which becomes the most recently used."""
        with self._lock:
            for run in candidates:
                run.is_busy = run is chosen
            if chosen is not None and chosen in self._runs:
                self._runs.remove(chosen)
                self._runs.append(chosen)

    def _admit(self, fresh: Run) -> bool:
        """Keep a new run in place of the oldest idle ones; return False if all are busy."""
        with self._lock:
            while len(self._runs) >= _RUNS_KEPT or self._used_bytes() > _BYTES_KEPT:
                oldest = next((run for run in self._runs if not run.is_busy), None)
                if oldest is None:
                    return False
                self._runs.remove(oldest)
            self._runs.append(fresh)
            return True

    def _used_bytes(self) -> int:
        return sum(run.history.size_bytes for run in self._runs)


class PredictedCall:
    """One call of a run, from its first frame to its reply.

    Attributes:
        message: the prediction part of the call's message, or None.
        payload: what is sent in place of the latent (bytes, one dimension), or None.
    """

    def __init__(
        self,
        owner: PredictedRuns,
        run: Run,
        latent: LatentBytes,
        entry: HistoryEntry | None = None,
        coded: CodedTensor | None = None,
    ) -> None:
        self._owner, self._run, self._latent = owner, run, latent
        self._entry = entry or run.history.take_input(latent)
        self.message = self._message(coded)
        self.payload = None if coded is None else coded.tensor

    def finish(self, coded: Coded | None, reply: Envelope) -> Envelope:
        """Return the reply with its first tensor restored, and add the call to the run's history.

        Raises:
            CodecError: the prediction gives another tensor here than at the worker.
            MessageError: the reply is predicted, and that was not asked for.
        """
        history = self._run.history
        if coded is not None:
            reply = self._decoded(coded, reply)
        elif reply.tensors and (first := reply.tensors[0].tensor) is not None and self.message is not None:
            history.take_output(self._entry, LatentBytes.of(first))
        history.add(self._entry)
        self._owner.done(self._run, held=coded is not None or self.payload is not None)
        return reply

    def begin_anew(self) -> None:
        """Begin the history again, which the worker does not have; once per run, or its workers may be several."""
        self._run.restarts += 1
        if self._run.restarts > 1:
            self._go_without()
            return
        self._reset()
        self._run.name = secrets.token_hex(16)
        self.message, self.payload = self._message(None), None

    def fail(self) -> None:
        """Send the rest of the run without prediction: the two sides compute differently."""
        self._owner.failed()
        self._go_without()

    def abandon(self) -> None:
        """Forget the run: the call has failed, and the worker's history may or may not hold it."""
        self._owner.drop(self._run)

    def _go_without(self) -> None:
        self._run.predicts = False
        self._reset()
        self.message, self.payload = None, None

    def _reset(self) -> None:
        self._run.history = History(self._run.history.layout)
        self._entry = self._run.history.take_input(self._latent)

    def _message(self, coded: CodedTensor | None) -> Prediction | None:
        if not self._run.predicts:
            return None
        return Prediction(
            history=self._run.name,
            call=self._entry.number,
            parts=self._run.history.layout.parts,
            coded=None if coded is None else coded.coded,
        )

    def _decoded(self, coded: Coded, reply: Envelope) -> Envelope:
        first = reply.tensors[0] if reply.tensors else None
        if self.message is None or first is None or first.tensor is None:
            raise MessageError("a predicted reply that was not asked for, or has no tensor")
        data = self._run.history.decode_output(self._entry, coded, payload_of(first.tensor))
        tensor = tensor_of(coded, data)
        made = first._replace(dtype=tensor.dtype, shape=coded.shape, tensor=tensor, strides=coded.strides)
        return replace(reply, tensors=(made, *reply.tensors[1:]))
