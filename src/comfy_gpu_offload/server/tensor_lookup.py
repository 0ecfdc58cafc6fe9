"""The tensors of a call: those that come with their data, and those that are named by digest and looked up."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..errors import FrameError
from ..io.digests import digest
from ..io.frame import Received
from ..io.strides import strides_of
from ..protocol.messages import Fault
from .blob_store import BlobStore
from .faults import RefusedError, missing_tensors, wrong_digest


class TensorLookup:
    """The lookup of a call's tensors in the store, which keeps those that come with a digest. Thread-safe."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store

    def resolve(
        self,
        received: tuple[Received, ...],
        refusal: Callable[[tuple[bytes, ...]], Fault] = missing_tensors,
    ) -> tuple[torch.Tensor, ...]:
        """Return all tensors of a frame, in its order. The model may write to them.

        Tensors that came with their data share the frame's memory; of those with a digest the store keeps copies.
        Tensors that are only named are copies from the store.

        Args:
            received: the frame's tensors.
            refusal: makes the fault that names the digests of missing tensors.

        Raises:
            FrameError: a named tensor has another dtype, shape or strides than the frame says.
            RefusedError: a tensor does not match its digest, or some are missing.
        """
        given = tuple([entry.tensor for entry in received if entry.digest is None and entry.tensor is not None])
        if len(given) == len(received):
            return given
        found = [self._look_up(entry) for entry in received]
        missing = tuple(
            entry.digest
            for entry, tensor in zip(received, found, strict=True)
            if tensor is None and entry.digest is not None
        )
        if missing:
            raise RefusedError(refusal(missing))
        return tuple(tensor for tensor in found if tensor is not None)

    def _look_up(self, entry: Received) -> torch.Tensor | None:
        if entry.tensor is None:
            held = None if entry.digest is None else self._store.get(entry.digest)
            if held is None:
                return None
            if (held.dtype, tuple(held.shape), strides_of(held)) != (entry.dtype, entry.shape, entry.strides):
                raise FrameError(
                    "contradiction",
                    f"{entry.name!r:.80} has another dtype, shape or strides than the tensor of its digest",
                )
            return held
        if entry.digest is not None:
            # Checked, because other clients that name this digest are given this tensor.
            if digest(entry.tensor) != entry.digest:
                raise wrong_digest(f"{entry.name!r:.80}")
            self._store.put(entry.digest, entry.tensor)
        return entry.tensor
