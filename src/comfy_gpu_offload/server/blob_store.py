"""The tensors that a worker keeps in memory between calls, by digest, within a budget of bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict

import torch

from ..io.kept.derivation import outline
from ..io.strides import copied, memory_bytes


class BlobStore:
    """Tensors by digest; the least recently used are dropped first. Thread-safe.

    A stored tensor belongs to the store alone: `put` and `get` copy.

    Args:
        budget_bytes: size of all kept tensors together; a larger tensor is not kept.
    """

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self._tensors: OrderedDict[bytes, torch.Tensor] = OrderedDict()
        self._used_bytes = 0
        self._lock = threading.Lock()

    @property
    def used_bytes(self) -> int:
        """Return the size of the kept tensors."""
        return self._used_bytes

    def put(self, digest: bytes, tensor: torch.Tensor) -> None:
        """Keep a copy of the tensor: it shares the memory of a whole frame, and the model may write to it."""
        with self._lock:
            if digest in self._tensors:
                self._tensors.move_to_end(digest)
                return
            size_bytes = memory_bytes(tensor)
            if size_bytes > self.budget_bytes:
                return
            self._tensors[digest] = copied(tensor)
            self._used_bytes += size_bytes
            while self._used_bytes > self.budget_bytes:
                _, evicted = self._tensors.popitem(last=False)
                self._used_bytes -= memory_bytes(evicted)

    def get(self, digest: bytes) -> torch.Tensor | None:
        """Return a copy of the tensor, to which the caller may write, or None."""
        with self._lock:
            tensor = self._tensors.get(digest)
            if tensor is None:
                return None
            self._tensors.move_to_end(digest)
        return copied(tensor)

    def outline(self, digest: bytes) -> torch.Tensor | None:
        """Return a tensor without data, of the kept one's dtype, shape and strides; None if it is not kept."""
        with self._lock:
            tensor = self._tensors.get(digest)
            if tensor is None:
                return None
            self._tensors.move_to_end(digest)
        return outline(tensor)
