"""The histories from which a worker predicts tensors of its clients' runs, within limits (docs/prediction.md)."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

import torch

from ..errors import CodecError, MessageError
from ..io.frame import Part
from ..prediction.coded_tensor import payload_of, tensor_of
from ..prediction.history import History, HistoryEntry
from ..prediction.latent import LatentBytes, layout_of
from ..protocol.messages import Coded, Fault, FaultCode, Prediction
from .faults import RefusedError

_Key = tuple[str, str]


@dataclass(frozen=True)
class Tracked:
    """A call with its place in a history."""

    key: _Key
    history: History
    entry: HistoryEntry


class Histories:
    """The histories of all clients; the least recently used are dropped first. Thread-safe.

    Args:
        budget_bytes: size of all histories together.
        for_each: number of histories of one client.

    The lock guards the table only; a history needs none of its own. `take` only reads it, on the connection's
    thread, and `finish` adds to it within a turn of the executor, so one call at a time. A client predicts a call
    from the reply to the one before, so nobody reads a history while a call is added to it; a frame for any call
    but the next one is refused.
    """

    def __init__(self, budget_bytes: int = 512 * 1024**2, for_each: int = 8) -> None:
        self._budget_bytes = budget_bytes
        self._for_each = for_each
        self._kept: OrderedDict[_Key, History] = OrderedDict()
        self._lock = threading.Lock()

    def knows(self, client: str, prediction: Prediction) -> bool:
        """Return whether the call begins a history, or its history is here and expects this call."""
        with self._lock:
            return prediction.call == 0 or self._find((client, prediction.history), prediction) is not None

    def take(
        self, client: str, prediction: Prediction, tensors: tuple[torch.Tensor, ...]
    ) -> tuple[Tracked, tuple[torch.Tensor, ...]]:
        """Return the call in its history, and the frame's tensors with the first one restored if it is predicted.

        Raises:
            MessageError: the frame does not have the form that `prediction` says.
            RefusedError: there is no such history, or it gives another tensor than the client has.
        """
        if not tensors:
            raise MessageError("a call without tensors cannot be predicted")
        key = (client, prediction.history)
        if prediction.coded is not None:
            history = self._known(key, prediction)
            entry, first = _decoded(history, prediction.coded, tensors[0])
            return Tracked(key, history, entry), (first, *tensors[1:])
        seen = LatentBytes.of(tensors[0])
        layout = layout_of(seen, prediction.parts)
        if layout is None:
            raise MessageError(f"this tensor cannot be predicted in {prediction.parts} parts")
        history = History(layout) if prediction.call == 0 else self._known(key, prediction)
        if history.layout != layout:
            raise MessageError("the tensor has another dtype or shape than those of its history")
        return Tracked(key, history, history.take_input(seen)), tensors

    def finish(self, tracked: Tracked, parts: list[Part]) -> tuple[Coded | None, list[Part]]:
        """Add the finished call to its history; return how its result's `parts` are to be sent.

        Returns:
            None and the same parts; or the description of the predicted first part, and the parts with its payloads
            in its place.
        """
        encoded = None
        if parts:
            encoded = tracked.history.encode_output(tracked.entry, LatentBytes.of(parts[0].tensor))
        tracked.history.add(tracked.entry)
        self._keep(tracked.key, tracked.history)
        if encoded is None:
            return None, parts
        return encoded.coded, [Part(parts[0].name, encoded.tensor), *parts[1:]]

    def _known(self, key: _Key, prediction: Prediction) -> History:
        with self._lock:
            history = self._find(key, prediction)
            if history is None:
                raise RefusedError(unknown_history())
            self._kept.move_to_end(key)
            return history

    def _find(self, key: _Key, prediction: Prediction) -> History | None:
        history = self._kept.get(key)
        return history if history is not None and history.calls == prediction.call else None

    def _keep(self, key: _Key, history: History) -> None:
        with self._lock:
            self._kept[key] = history
            self._kept.move_to_end(key)
            own = [other for other in self._kept if other[0] == key[0]]
            for other in own[: -self._for_each]:
                del self._kept[other]
            used = sum(kept.size_bytes for kept in self._kept.values())
            while used > self._budget_bytes:
                used -= self._kept.popitem(last=False)[1].size_bytes


def unknown_history(missing: tuple[bytes, ...] = ()) -> Fault:
    """Return the fault for a missing history. `missing`: digests of the tensors that the worker lacks besides."""
    text = "This worker does not have that history: it was restarted, has no room, or is another one."
    return Fault(code=FaultCode.UNKNOWN_HISTORY, message=text, retryable=True, missing=missing)


def _decoded(history: History, coded: Coded, payload: torch.Tensor) -> tuple[HistoryEntry, torch.Tensor]:
    data = payload_of(payload)
    try:
        entry, data = history.decode_input(coded, data)
        return entry, tensor_of(coded, data)
    except CodecError as error:
        text = f"A prediction did not hold here: {error}"
        raise RefusedError(Fault(code=FaultCode.WRONG_PREDICTION, message=text[:4000])) from error
