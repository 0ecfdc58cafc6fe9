"""The tensors of a call, of which some come with their data and others are only named."""

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
    """Finds a call's tensors, and keeps those that may come again. Thread-safe."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store

    def resolve(
        self,
        received: tuple[Received, ...],
        refusal: Callable[[tuple[bytes, ...]], Fault] = missing_tensors,
    ) -> tuple[torch.Tensor, ...]:
        """Every tensor's data; those with a digest are kept, those that are only named are looked up.

        Raises:
            FrameError: one is not of the dtype, shape and strides that its digest is of.
            RefusedError: one does not match its digest, or some are not there; `refusal` makes the fault of those.
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
                raise FrameError("contradiction", f"{entry.name!r:.80} is not what its digest names")
            return held
        if entry.digest is not None:
            # Checked, because other clients will be given this tensor by that name.
            if digest(entry.tensor) != entry.digest:
                raise wrong_digest(f"{entry.name!r:.80}")
            self._store.put(entry.digest, entry.tensor)
        return entry.tensor
