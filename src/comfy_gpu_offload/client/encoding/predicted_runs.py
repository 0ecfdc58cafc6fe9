"""Which run a call belongs to, and how its latent travels therefore. docs/prediction.md is the specification."""

from __future__ import annotations

import secrets
import threading
from dataclasses import dataclass, replace

import torch

from ...errors import MessageError
from ...io.buffers import tensor_bytes
from ...prediction.history import Call, Encoded, History, tensor_of
from ...prediction.latent import Layout, Tensor, layout_of
from ...protocol.envelope import Envelope
from ...protocol.messages import Coded, Prediction

# What a prediction needs besides its payload takes some hundred bytes.
_SMALLEST_BYTES = 2048
# After as many runs in a row with a worker that computes differently, one is tried now and then: the worker may be
# another one by then.
_FAILURES = 2
_RETRY_EVERY = 8
_KEPT = 4
_KEPT_BYTES = 512 * 1024**2


@dataclass
class Run:
    """A model's calls in a row, each foretold by those before it.

    Attributes:
        name: of its history at the worker.
        predicts: whether it may; else its latents are only looked at, to see when another run begins.
        restarts: how often the worker did not know its history.
    """

    model: str
    history: History
    name: str = ""
    predicts: bool = True
    is_busy: bool = True
    restarts: int = 0


class Predictions:
    """The runs of one session. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs: list[Run] = []  # the last one used last
        self._failures = self._skipped = 0

    def begin(self, model: str, tensors: tuple[torch.Tensor, ...]) -> Tracked | None:
        """How the first of a call's tensors travels; None where prediction is not for it."""
        if not tensors or tensors[0].nbytes < _SMALLEST_BYTES:
            return None
        tensor = Tensor.of(tensors[0])
        layout = layout_of(tensor)
        if layout is None:
            return None
        candidates = self._candidates(model, layout)
        try:
            matched = [(run, match) for run in candidates if (match := run.history.match(tensor)) is not None]
        except BaseException:  # an interrupt: else they would be busy for good
            self._settle(None, candidates)
            raise
        found = min(matched, key=lambda each: each[1].unexplained, default=None)
        if found is None or not found[1].is_related:
            self._settle(None, candidates)
            fresh = Run(model, History(layout), secrets.token_hex(16), predicts=self._is_due())
            return Tracked(self, fresh, tensor) if self._admit(fresh) else None
        run, match = found
        self._settle(run, candidates)
        if not run.predicts:
            return Tracked(self, run, tensor)
        call, encoded = run.history.encode_input(tensor, match)
        return Tracked(self, run, tensor, call, encoded)

    def done(self, run: Run, *, held: bool) -> None:
        """The run's call is in its history. `held`: of something foretold in it both ends made the same."""
        with self._lock:
            run.is_busy = False
            if held:
                self._failures = self._skipped = 0

    def failed(self) -> None:
        """The worker makes something else of a prediction."""
        with self._lock:
            self._failures += 1

    def _is_due(self) -> bool:
        with self._lock:
            if self._failures < _FAILURES:
                return True
            self._skipped += 1
            return self._skipped % _RETRY_EVERY == 0

    def drop(self, run: Run) -> None:
        """Nobody knows what the worker has of that run."""
        with self._lock:
            if run in self._runs:
                self._runs.remove(run)

    def _candidates(self, model: str, layout: Layout) -> list[Run]:
        with self._lock:
            idle = [run for run in self._runs if not run.is_busy]
            found = [run for run in idle if run.model == model and run.history.layout == layout]
            for run in found:
                run.is_busy = True
            return found

    def _settle(self, chosen: Run | None, candidates: list[Run]) -> None:
        with self._lock:
            for run in candidates:
                run.is_busy = run is chosen
            if chosen is not None and chosen in self._runs:
                self._runs.remove(chosen)
                self._runs.append(chosen)

    def _admit(self, fresh: Run) -> bool:
        with self._lock:
            while len(self._runs) >= _KEPT or self._used_bytes() > _KEPT_BYTES:
                oldest = next((run for run in self._runs if not run.is_busy), None)
                if oldest is None:
                    return False
                self._runs.remove(oldest)
            self._runs.append(fresh)
            return True

    def _used_bytes(self) -> int:
        return sum(run.history.size_bytes for run in self._runs)


class Tracked:
    """One call of a run, from its frame to its reply.

    Attributes:
        message: what its message says of prediction; None where nothing.
        payload: what travels in place of the latent, or None.
    """

    def __init__(
        self,
        owner: Predictions,
        run: Run,
        tensor: Tensor,
        call: Call | None = None,
        encoded: Encoded | None = None,
    ) -> None:
        self._owner, self._run, self._tensor = owner, run, tensor
        self._call = call or run.history.take_input(tensor)
        self.message = self._message(encoded)
        self.payload = None if encoded is None else encoded.tensor

    def finish(self, coded: Coded | None, reply: Envelope) -> Envelope:
        """The reply as it is meant. The call is in its history now.

        Raises:
            CodecError: the history does not make of it what the worker had.
            MessageError: a predicted reply that nobody asked for.
        """
        history = self._run.history
        if coded is not None:
            reply = self._decoded(coded, reply)
        elif reply.tensors and (first := reply.tensors[0].tensor) is not None and self.message is not None:
            history.take_output(self._call, Tensor.of(first))
        history.add(self._call)
        self._owner.done(self._run, held=coded is not None or self.payload is not None)
        return reply

    def begin_anew(self) -> None:
        """The worker does not have the history: it is begun again; once in a run, which may be another worker's."""
        self._run.restarts += 1
        if self._run.restarts > 1:
            self._go_without()
            return
        self._reset()
        self._run.name = secrets.token_hex(16)
        self.message, self.payload = self._message(None), None

    def fail(self) -> None:
        """Two sides compute differently: the rest of the run travels as it is."""
        self._owner.failed()
        self._go_without()

    def _go_without(self) -> None:
        self._run.predicts = False
        self._reset()
        self.message, self.payload = None, None

    def abandon(self) -> None:
        """The call has failed, and nobody knows whether the worker's history has it."""
        self._owner.drop(self._run)

    def _reset(self) -> None:
        self._run.history = History(self._run.history.layout)
        self._call = self._run.history.take_input(self._tensor)

    def _message(self, encoded: Encoded | None) -> Prediction | None:
        if not self._run.predicts:
            return None
        return Prediction(
            history=self._run.name,
            call=self._call.number,
            parts=self._run.history.layout.parts,
            coded=None if encoded is None else encoded.coded,
        )

    def _decoded(self, coded: Coded, reply: Envelope) -> Envelope:
        first = reply.tensors[0] if reply.tensors else None
        if self.message is None or first is None or first.tensor is None or first.dtype != torch.uint8:
            raise MessageError("a predicted reply that was not asked for, or is not of its form")
        data = self._run.history.decode_output(self._call, coded, tensor_bytes(first.tensor))
        tensor = tensor_of(coded, data)
        made = first._replace(dtype=tensor.dtype, shape=coded.shape, tensor=tensor, strides=coded.strides)
        return replace(reply, tensors=(made, *reply.tensors[1:]))
