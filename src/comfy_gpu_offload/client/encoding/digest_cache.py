"""Digests in place of tensors: which tensors of a call are worth one, and which of those the worker holds.

Hashing a latent takes longer than sending it over a fast link, and the same latent is never sent twice.
Conditioning comes with every step, though in a new tensor object each time. So each argument of a model has a short
memory: after values that were all new, it is sent without a digest, until a cheap sample shows a value that was
there before.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from ...io.buffers import on_host
from ...io.digests import DigestMemo, sample
from ...io.frame import Part
from ...io.kept.derivation import FLOATS, Derivation, Step, outline
from ...io.kept.kept_tensor import KeptTensor
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


class NamedTensor(NamedTuple):
    """A tensor that the worker keeps, or makes of what it keeps.

    Attributes:
        name: its digest, or that of its derivation.
        like: a tensor on the meta device, of its dtype, shape and strides.
        derivation: None if the worker keeps it by its digest.
    """

    name: bytes
    like: torch.Tensor
    derivation: Derivation | None

    @property
    def nbytes(self) -> int:
        """The size of its data."""
        return self.like.nbytes


class _Noted(NamedTuple):
    """A tensor of this side that the worker knows: a reference to it, the digest of its content, what is known."""

    tensor: weakref.ref[torch.Tensor]
    digest: bytes
    known: Derivation | bytes


class DigestCache:
    """The digests that one session's worker is known to hold. Thread-safe.

    It is what kept tensors know the worker by (`Source.holder`).

    Args:
        store_bytes: the size of the worker's store; a larger tensor is not worth a digest.
    """

    def __init__(self, store_bytes: int) -> None:
        self._store_bytes = store_bytes
        self._lock = threading.Lock()
        self._arguments: OrderedDict[tuple[str, str], _Argument] = OrderedDict()
        self._held: OrderedDict[bytes, None] = OrderedDict()
        self._lost: OrderedDict[bytes, None] = OrderedDict()
        self._memo = DigestMemo()
        self._instance: str | None = None
        self._noted: dict[int, _Noted] = {}

    def note_cast(self, source: torch.Tensor, made: torch.Tensor) -> None:
        """Have calls that send `made` say how the worker makes it of `source`, if it holds that.

        Args:
            source: on the CPU.
            made: `source` in its own dtype or in another.
        """
        step = Step("cast", (0,), (), str(made.dtype).removeprefix("torch."))
        if not {source.dtype, made.dtype} <= set(FLOATS.values()) or not source.is_cpu or not made.is_cpu:
            return
        with self._lock:
            name = self._memo.digest(source)
            if name not in self._held:
                return
            known = name if made.dtype is source.dtype else Derivation((name,), (step,))
            key = id(made)
            reference = weakref.ref(made, lambda _: self._noted.pop(key, None))
            self._noted[key] = _Noted(reference, self._memo.digest(made), known)

    def parts(
        self,
        model: str,
        packed: PackedTree,
        host: tuple[torch.Tensor | NamedTensor, ...],
        first: torch.Tensor | None = None,
    ) -> list[Part]:
        """Return the frame's parts for a call to `model`.

        Args:
            model: a name of the model.
            packed: the call's tensors.
            host: the same on the CPU, or as `named` returned them.
            first: is sent in place of the first tensor.
        """
        parts = [] if first is None else [Part(packed.paths[0], first)]
        rest = slice(len(parts), None)
        with self._lock:
            for path, tensor, given in zip(packed.paths[rest], packed.tensors[rest], host[rest], strict=True):
                if isinstance(given, NamedTensor):
                    parts.append(Part(path, given.like, given.name, held=True))
                else:
                    parts.append(self._part(model, path, tensor, given))
        return parts

    def named(self, host: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor | NamedTensor, ...]:
        """Return the tensors with those named that the worker keeps or can make of what it keeps.

        What it has lost it is asked to keep again. Where it does not, the data is fetched or computed again.

        Args:
            host: a call's tensors, on the CPU or kept.

        Raises:
            OffloadError: the worker could not be asked.
        """
        if not self._noted and not any(isinstance(tensor, KeptTensor) for tensor in host):
            return host
        lost = [tensor for tensor in host if isinstance(tensor, KeptTensor) and self._is_lost(tensor)]
        for source in set().union(*(tensor.sources() for tensor in lost)):
            source.renew()
        return tuple(
            [self._named(tensor) if isinstance(tensor, KeptTensor) else self._as_noted(tensor) for tensor in host]
        )

    def _as_noted(self, tensor: torch.Tensor) -> torch.Tensor | NamedTensor:
        with self._lock:
            noted = self._noted.get(id(tensor))
            if noted is None or noted.tensor() is not tensor or self._memo.digest(tensor) != noted.digest:
                return tensor
            name = _name_of(noted.known)
            if name is None or name in self._lost:
                del self._noted[id(tensor)]
                return tensor
        return NamedTensor(name, outline(tensor), noted.known if isinstance(noted.known, Derivation) else None)

    def _is_lost(self, tensor: KeptTensor) -> bool:
        name = _name_of(tensor.derivation(self))
        with self._lock:
            if name is None or name not in self._lost:
                return False
            del self._lost[name]
            return True

    def _named(self, tensor: KeptTensor) -> torch.Tensor | NamedTensor:
        known = tensor.derivation(self)
        name = _name_of(known)
        if name is None:
            return on_host(tensor.data_here())
        return NamedTensor(name, tensor.node.like, known if isinstance(known, Derivation) else None)

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
                self._lost[digest] = None
            while len(self._lost) > _HELD_KEPT:
                self._lost.popitem(last=False)


def _name_of(known: Derivation | bytes | None) -> bytes | None:
    return known.name if isinstance(known, Derivation) else known
