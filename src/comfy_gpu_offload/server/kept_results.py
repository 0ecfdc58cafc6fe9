"""Results that are kept by the digests of their tensors, and found again by the digest of the call."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import msgpack
import torch

from ..io.digests import digest
from ..io.frame import Part
from ..io.strides import copied
from ..io.tree import PackedTree
from ..protocol.envelope import Envelope
from ..protocol.messages import Forward
from .blob_store import BlobStore

# A smaller tensor comes with the reply: a client may need it, and it is sent again within a step's noise.
_SMALLEST_BYTES = 16 * 1024
_CALLS_KEPT = 256
# Of a call, what its result depends on besides its arguments.
_DEPENDS_ON = ("model", "fingerprint", "method", "patches", "hooks", "autocast")


@dataclass(frozen=True)
class _KeptCall:
    """The result of one call: its skeleton, and its tensors' paths and digests, with the data of small ones."""

    skeleton: Any
    tensors: tuple[tuple[str, bytes, torch.Tensor | None], ...]


class KeptResults:
    """The results of calls, whose tensors are in `store`. Thread-safe.

    The lock guards the table of calls.
    """

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self._calls: OrderedDict[bytes, _KeptCall] = OrderedDict()
        self._lock = threading.Lock()

    def keep(self, packed: PackedTree, call: bytes | None = None) -> list[Part]:
        """Keep a result, and return the parts of a frame with its tensors, all with their data and digests.

        Args:
            call: the name of the call, by which the result is found again; None for one that is not to be.
        """
        parts = [
            Part(path, tensor, digest(tensor)) for path, tensor in zip(packed.paths, packed.tensors, strict=True)
        ]
        for part in parts:
            if part.digest is not None:
                self._store.put(part.digest, part.tensor)
        if call is not None:
            small = [None if _is_large(part.tensor) else copied(part.tensor) for part in parts]
            tensors = [(part.name, part.digest or b"", own) for part, own in zip(parts, small, strict=True)]
            with self._lock:
                self._calls[call] = _KeptCall(packed.skeleton, tuple(tensors))
                self._calls.move_to_end(call)
                while len(self._calls) > _CALLS_KEPT:
                    self._calls.popitem(last=False)
        return parts

    def without_data(self, parts: list[Part]) -> list[Part]:
        """Return the parts without the data of those tensors that are kept."""
        return [
            part._replace(tensor=kept, held=True)
            if part.digest is not None
            and _is_large(part.tensor)
            and (kept := self._store.outline(part.digest)) is not None
            else part
            for part in parts
        ]

    def recall(self, call: bytes, *, data: bool) -> tuple[Any, list[Part]] | None:
        """Return the skeleton and the parts of an earlier result; None unless all of it is kept.

        Args:
            data: whether the parts are to have the data of large tensors too.
        """
        with self._lock:
            found = self._calls.get(call)
            if found is None:
                return None
            self._calls.move_to_end(call)
        look_up = self._store.get if data else self._store.outline
        parts = []
        for path, name, own in found.tensors:
            tensor = look_up(name) if own is None else own
            if tensor is None:
                return None
            parts.append(Part(path, tensor, name, held=own is None and not data))
        return found.skeleton, parts


def call_name(message: Forward, envelope: Envelope) -> bytes:
    """Return a digest of all that the result of a call depends on; 32 bytes."""
    fields = message.fields()
    depends = [fields.get(name) for name in _DEPENDS_ON]
    # A tensor without a digest has come with its data.
    tensors = [
        received.digest or (b"" if received.tensor is None else digest(received.tensor))
        for received in envelope.tensors
    ]
    return hashlib.sha256(msgpack.packb([depends, envelope.skeleton, tensors])).digest()


def _is_large(tensor: torch.Tensor) -> bool:
    return tensor.nbytes >= _SMALLEST_BYTES
