"""Digests in place of tensors: which tensors of a call are worth one, and which of those the worker holds.

Hashing a latent takes longer than sending it over a fast link, and the same latent is never sent twice.
Conditioning comes with every step, though in a new tensor object each time. So each argument of a model has a short
memory: after values that were all new, it is sent without a digest, until a cheap sample shows a value that was
there before.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from dataclasses import dataclass, field

import torch

from ...io.digests import DigestMemo, sample
from ...io.frame import Part
from ...io.tree import PackedTree

# Naming a smaller tensor takes about as many bytes as sending it.
_SMALLEST_BYTES = 64
# After more than so many new values in a row, an argument gets no digests.
_NEW_IN_A_ROW = 2
_SAMPLES_KEPT = 8
_ARGUMENTS_KEPT = 4096
_HELD_KEPT = 65_536
# Endings of paths whose tensors come again, in the next run if not before: a ControlNet's picture.
_ALWAYS = ("['hint']",)


@dataclass
class _Argument:
    """The recent values of one argument of a model: samples of them, and how many in a row were new."""

    new_in_a_row: int = 0
    samples: deque[int] = field(default_factory=lambda: deque(maxlen=_SAMPLES_KEPT))


class DigestCache:
    """The digests that one session's worker is known to hold. Thread-safe.

    Args:
        store_bytes: the size of the worker's store; a larger tensor is not worth a digest.
    """

    def __init__(self, store_bytes: int) -> None:
        self._store_bytes = store_bytes
        self._lock = threading.Lock()
        self._arguments: OrderedDict[tuple[str, str], _Argument] = OrderedDict()
        self._held: OrderedDict[bytes, None] = OrderedDict()
        self._memo = DigestMemo()
        self._instance: str | None = None

    def parts(
        self, model: str, packed: PackedTree, host: tuple[torch.Tensor, ...], first: torch.Tensor | None = None
    ) -> list[Part]:
        """Return the frame's parts for a call to `model`; `host` holds the tensors of `packed` on the CPU.

        If `first` is given, it is sent in place of the first tensor.
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
            self._argument(model, path).new_in_a_row = 0
            self._held.move_to_end(digest)
        return Part(path, on_host, digest, held)

    def _recurs(self, model: str, path: str, tensor: torch.Tensor) -> bool:
        if path.endswith(_ALWAYS):
            return True
        argument = self._argument(model, path)
        seen = sample(tensor)
        known = seen in argument.samples
        if known:
            argument.new_in_a_row = 0
        else:
            argument.samples.append(seen)
            argument.new_in_a_row += 1
        return argument.new_in_a_row <= _NEW_IN_A_ROW

    def _argument(self, model: str, path: str) -> _Argument:
        key = (model, path)
        argument = self._arguments.get(key)
        if argument is None:
            argument = self._arguments[key] = _Argument()
            if len(self._arguments) > _ARGUMENTS_KEPT:
                self._arguments.popitem(last=False)
        return argument

    def delivered(self, instance: str, parts: list[Part]) -> None:
        """Record that the worker `instance` has received these parts, and keeps those with a digest."""
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
        """Record that the worker does not hold these: it was restarted, or had no room."""
        with self._lock:
            for digest in digests:
                self._held.pop(digest, None)
