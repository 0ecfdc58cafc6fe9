"""The tensors of a call: those that come with their data, and those that are named and looked up or made."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from ..errors import FrameError
from ..io.digests import digest
from ..io.frame import DEFAULT_LIMITS, Received
from ..io.kept.derivation import Derivation, DerivationError
from ..io.strides import copied, strides_of
from ..protocol.messages import DerivedTensor, Fault
from .blob_store import BlobStore
from .faults import RefusedError, missing_tensors, wrong_digest


class TensorLookup:
    """The lookup of a call's tensors in the store, which keeps those that come with a digest. Thread-safe.

    Args:
        store: the tensors that are kept.
        most_bytes: of a tensor that is made of kept ones, and of each step to it.
    """

    def __init__(self, store: BlobStore, most_bytes: int = DEFAULT_LIMITS.frame_bytes) -> None:
        self._store = store
        self._most_bytes = most_bytes

    def resolve(
        self,
        received: tuple[Received, ...],
        refusal: Callable[[tuple[bytes, ...]], Fault] = missing_tensors,
        derived: tuple[DerivedTensor, ...] | None = None,
    ) -> tuple[torch.Tensor, ...]:
        """Return all tensors of a frame, in its order. The model may write to them.

        Tensors that came with their data share the frame's memory; of those with a digest the store keeps copies.
        Tensors that are only named are copies from the store.

        Args:
            received: the frame's tensors.
            refusal: makes the fault that names the digests of missing tensors.
            derived: how those are made that are named by something else than their content.

        Raises:
            FrameError: a named tensor has another dtype, shape or strides than the frame says.
            RefusedError: a tensor does not match its digest, or some are missing.
        """
        given = tuple([entry.tensor for entry in received if entry.digest is None and entry.tensor is not None])
        if len(given) == len(received):
            return given
        made = {each.name: each for each in (each.derivation for each in derived or ())}
        found = [self._look_up(entry, made) for entry in received]
        missing = tuple(
            entry.digest
            for entry, tensor in zip(received, found, strict=True)
            if tensor is None and entry.digest is not None
        )
        if missing:
            raise RefusedError(refusal(missing))
        return tuple(tensor for tensor in found if tensor is not None)

    def _look_up(self, entry: Received, made: Mapping[bytes, Derivation]) -> torch.Tensor | None:
        if entry.tensor is None:
            held = None if entry.digest is None else self._store.get(entry.digest)
            if held is None:
                derivation = None if entry.digest is None else made.get(entry.digest)
                return None if derivation is None else self._make(entry, derivation)
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

    def _make(self, entry: Received, derivation: Derivation) -> torch.Tensor | None:
        """Return a derived tensor, which is kept by its name; None if the client has to send it."""
        sources = [self._store.get(source) for source in derivation.sources]
        found = [source for source in sources if source is not None]
        if len(found) < len(sources):
            return None
        try:
            made = derivation.evaluate(found, self._most_bytes)
        except DerivationError:
            return None
        if (made.dtype, tuple(made.shape), strides_of(made)) != (entry.dtype, entry.shape, entry.strides):
            return None
        self._store.put(derivation.name, made)
        return copied(made)
