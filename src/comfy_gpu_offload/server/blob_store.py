"""The tensors a worker keeps between calls, by digest, within a byte budget."""

from __future__ import annotations

import threading
from collections import OrderedDict

import torch

from ..io.strides import copied, memory_bytes


class BlobStore:
    """Least recently used tensors leave first. Thread-safe.

    Args:
        budget_bytes: what all kept tensors may take together; one that is larger alone is not kept.
    """

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self._tensors: OrderedDict[bytes, torch.Tensor] = OrderedDict()
        self._used_bytes = 0
        self._lock = threading.Lock()

    @property
    def used_bytes(self) -> int:
        """What the kept tensors take."""
        return self._used_bytes

    def put(self, digest: bytes, tensor: torch.Tensor) -> None:
        """Keeps a copy: the tensor given shares a whole frame's memory, and is the model's to change."""
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
        """A copy of the tensor, the caller's to change, or None."""
        with self._lock:
            tensor = self._tensors.get(digest)
            if tensor is None:
                return None
            self._tensors.move_to_end(digest)
        return copied(tensor)
