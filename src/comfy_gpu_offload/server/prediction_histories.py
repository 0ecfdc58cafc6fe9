"""What this worker has seen of its clients' sampling runs, within limits."""

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
    """A call that a history follows."""

    key: _Key
    history: History
    entry: HistoryEntry


class Histories:
    """The histories of all clients, each its own; the least recently used go first. Thread-safe.

    Args:
        budget_bytes: what all may take together.
        for_each: how many one client may have.
    """

    def __init__(self, budget_bytes: int = 512 * 1024**2, for_each: int = 8) -> None:
        self._budget_bytes = budget_bytes
        self._for_each = for_each
        self._kept: OrderedDict[_Key, History] = OrderedDict()
        self._lock = threading.Lock()

    def knows(self, client: str, prediction: Prediction) -> bool:
        """Whether the history is there that the call goes on with, or it begins one."""
        with self._lock:
            return prediction.call == 0 or self._find((client, prediction.history), prediction) is not None

    def take(
        self, client: str, prediction: Prediction, tensors: tuple[torch.Tensor, ...]
    ) -> tuple[Tracked, tuple[torch.Tensor, ...]]:
        """The call of a frame with these tensors, and its tensors as they are meant.

        Raises:
            MessageError: the frame is not of the form that its prediction says.
            RefusedError: there is no such history, or it does not make of the frame what the client had.
        """
        if not tensors:
            raise MessageError("a prediction for a call without tensors")
        key = (client, prediction.history)
        if prediction.coded is not None:
            history = self._known(key, prediction)
            entry, first = _decoded(history, prediction.coded, tensors[0])
            return Tracked(key, history, entry), (first, *tensors[1:])
        seen = LatentBytes.of(tensors[0])
        layout = layout_of(seen, prediction.parts)
        if layout is None:
            raise MessageError(f"a tensor that prediction does not know, in {prediction.parts} parts")
        history = History(layout) if prediction.call == 0 else self._known(key, prediction)
        if history.layout != layout:
            raise MessageError("a tensor that is not like its history's")
        return Tracked(key, history, history.take_input(seen)), tensors

    def finish(self, tracked: Tracked, parts: list[Part]) -> tuple[Coded | None, list[Part]]:
        """The call gave these parts; how they are to travel. The call is in its history now."""
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
    """The fault, with what else the worker lacks for the call: that need not be asked for again."""
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
