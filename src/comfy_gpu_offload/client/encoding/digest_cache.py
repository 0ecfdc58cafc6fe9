"""Which tensors of a call are worth a digest, and which of those the worker holds.

Hashing a latent costs more than sending it over a fast link, and a latent never comes again; conditioning
comes with every step, though in a new tensor each time. So each place in a call has a short memory: where
what came was always new, it is sent as it is, until a cheap sample says that something came back.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from dataclasses import dataclass, field

import torch

from ...io.digests import DigestMemo, sample
from ...io.frame import Part
from ...io.tree import PackedTree

# Below this, naming a tensor takes about as many bytes as sending it.
_SMALLEST_BYTES = 64
_NEW_IN_A_ROW = 2
_SAMPLES_KEPT = 8
_PLACES_KEPT = 4096
_HELD_KEPT = 65_536
# Ends of paths under which lies what comes again, with the next run if not before: a ControlNet's picture.
_ALWAYS = ("['hint']",)


@dataclass
class _Place:
    """The memory of one place in a model's calls."""

    new_in_a_row: int = 0
    samples: deque[int] = field(default_factory=lambda: deque(maxlen=_SAMPLES_KEPT))


class Recurrence:
    """What one session knows of one worker. Thread-safe.

    Args:
        store_bytes: what the worker keeps in all; a tensor larger than that is not worth a digest.
    """

    def __init__(self, store_bytes: int) -> None:
        self._store_bytes = store_bytes
        self._lock = threading.Lock()
        self._places: OrderedDict[tuple[str, str], _Place] = OrderedDict()
        self._held: OrderedDict[bytes, None] = OrderedDict()
        self._memo = DigestMemo()
        self._instance: str | None = None

    def parts(
        self, model: str, packed: PackedTree, host: tuple[torch.Tensor, ...], first: torch.Tensor | None = None
    ) -> list[Part]:
        """The frame's parts for a call to `model`: `host` holds the tensors of `packed` on the CPU.

        `first` travels in place of the first one.
        """
        parts = [] if first is None else [Part(packed.paths[0], first)]
        rest = slice(len(parts), None)
        with self._lock:
            for path, tensor, on_host in zip(packed.paths[rest], packed.tensors[rest], host[rest], strict=True):
                parts.append(self._part(model, path, tensor, on_host))
        return parts

    def _part(self, model: str, path: str, tensor: torch.Tensor, on_host: torch.Tensor) -> Part:
        if not _SMALLEST_BYTES <= tensor.nbytes <= self._store_bytes or not self._recurs(model, path, on_host):
            return Part(path, on_host)
        digest = self._memo.digest(on_host)
        held = digest in self._held
        if held:
            self._place(model, path).new_in_a_row = 0
            self._held.move_to_end(digest)
        return Part(path, on_host, digest, held)

    def _recurs(self, model: str, path: str, tensor: torch.Tensor) -> bool:
        if path.endswith(_ALWAYS):
            return True
        place = self._place(model, path)
        seen = sample(tensor)
        known = seen in place.samples
        if known:
            place.new_in_a_row = 0
        else:
            place.samples.append(seen)
            place.new_in_a_row += 1
        return place.new_in_a_row <= _NEW_IN_A_ROW

    def _place(self, model: str, path: str) -> _Place:
        key = (model, path)
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = _Place()
            if len(self._places) > _PLACES_KEPT:
                self._places.popitem(last=False)
        return place

    def delivered(self, instance: str, parts: list[Part]) -> None:
        """The worker `instance` has taken these parts, and keeps those with a digest."""
        with self._lock:
            if instance != self._instance:
                self._held.clear()
                self._instance = instance
            for part in parts:
                if part.digest is not None:
                    self._held[part.digest] = None
            while len(self._held) > _HELD_KEPT:
                self._held.popitem(last=False)

    def lacking(self, digests: tuple[bytes, ...]) -> None:
        """The worker does not hold these after all: it was restarted, or had no room."""
        with self._lock:
            for digest in digests:
                self._held.pop(digest, None)
