"""Weight patches of a remote model, and their upload to the worker: once, by digest."""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from ..errors import MessageError, WorkerFaultError
from ..io import codecs
from ..io.buffers import on_host
from ..io.digests import digest, skeleton_digest
from ..io.frame import Part
from ..io.strides import strides_of
from ..io.tree import pack
from ..protocol.envelope import Envelope, seal_parts
from ..protocol.messages import Define, Fault, FaultCode, HookRef, PatchRef, Store, Stored, WholeTensor, expect
from ..transport.base import CHECK_INTERVAL_S, Check
from .pipeline import Pipeline
from .worker_faults import error_of, expect_answer

# Base64 of it and its header stay far below what RunPod's queue takes in a job (10 MB).
PART_BYTES = 4 * 1024**2
_KNOWN_KEPT = 1024
# A worker that still lacks what was just uploaded has no room for it.
_MAX_ROUNDS = 3

# A smaller template is sent without asking first whether the worker has it: compressed, it fits what a new
# connection carries in one round trip.
_SMALL_BYTES = 16 * 1024

# Tensors and their digests.
_Group = list[tuple[bytes, torch.Tensor]]
OnUpload = Callable[[int, int], None]
"""Takes an upload's progress: bytes that are at the worker, bytes in all."""


@dataclass(frozen=True, eq=False)
class WeightPatches:
    """Patches of a model's weights; docs/protocol.md, "Weight patches".

    Attributes:
        template: describes the patches; plain data that names tensors by digest and strengths by position.
        strengths: pairs of a patch's strength and the strength of the weight that it is added to.
        tensors: by digest, on any device; only those that the worker lacks are read.
        on_upload: takes an upload's progress.
        skeleton: the template as a tree without tensors.
        ref: names them in a call.
    """

    template: Any
    strengths: tuple[tuple[float, float], ...]
    tensors: Mapping[bytes, torch.Tensor]
    on_upload: OnUpload = lambda *_: None
    skeleton: Any = field(init=False)
    ref: PatchRef = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "skeleton", pack(self.template, "patches").skeleton)
        ref = PatchRef(template=skeleton_digest(self.skeleton), strengths=self.strengths)
        object.__setattr__(self, "ref", ref)

    def at(self, strengths: tuple[tuple[float, float], ...]) -> WeightPatches:
        """Return the same patches at other strengths, which are a few other numbers in the call."""
        changed = copy.copy(self)
        object.__setattr__(changed, "strengths", strengths)
        object.__setattr__(changed, "ref", PatchRef(template=self.ref.template, strengths=strengths))
        return changed


@dataclass(frozen=True)
class HookPatches:
    """The patches that hooks put on a model's weights for a call, over its patches; docs/protocol.md, "Hooks".

    Attributes:
        patches, single, group: as in `HookRef`.
    """

    patches: WeightPatches | None = None
    single: tuple[int, ...] = ()
    group: int | None = None

    @property
    def ref(self) -> HookRef:
        """The name of them in a call."""
        ref = None if self.patches is None else self.patches.ref
        return HookRef(patches=ref, single=self.single, group=self.group)


class Exchange(Protocol):
    """A function that has one message answered, with retries.

    Attributes:
        bytes_up: bytes of all frames that were sent.
    """

    bytes_up: int

    def __call__(
        self,
        message: Store | Define,
        skeleton: Any,
        parts: Sequence[Part],
        codec: codecs.Codec | codecs.Chooser,
        check: Check | None,
    ) -> Envelope:
        """Return the reply, or the fault by which the worker says what it lacks."""


class PatchUploads:
    """Makes weight patches known to one worker. Thread-safe; one upload at a time.

    Args:
        exchange: how frames get there.
        client: the session's name.
        codec: gives what parts are stored with; what changes values is not used, since they go by digest.
        at_once: exchanges under way at a time.
    """

    def __init__(
        self,
        exchange: Exchange,
        client: str,
        codec: Callable[[], codecs.Codec | codecs.Chooser],
        at_once: int = 1,
    ) -> None:
        self._exchange = exchange
        self._client = client
        self._codec = codec
        self._at_once = at_once
        self._known: OrderedDict[bytes, None] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def bytes_up(self) -> int:
        """Return the bytes of all frames so far."""
        return self._exchange.bytes_up

    def ensure(self, named: Iterable[WeightPatches], check: Check | None) -> None:
        """Define the patches that this session has not defined before."""
        self.define([patches for patches in named if patches.ref.template not in self._known], check)

    def define(self, named: Iterable[WeightPatches], check: Check | None) -> None:
        """Make them known to the worker: upload what it lacks, from where an earlier upload stopped.

        Raises:
            TransportError: the worker cannot be reached.
            WorkerFaultError: it refused them.
        """
        for patches in named:
            self._make_known(patches, check)

    def _make_known(self, patches: WeightPatches, check: Check | None) -> None:
        while not self._lock.acquire(timeout=CHECK_INTERVAL_S):
            if check is not None:
                check()
        try:
            message = Define(client=self._client, template=patches.ref.template)
            size = seal_parts(message, patches.skeleton, []).size_bytes
            if size <= _SMALL_BYTES or self._missing(message, check):
                self._define(message, patches, check)
            self._known[patches.ref.template] = None
            if len(self._known) > _KNOWN_KEPT:
                self._known.popitem(last=False)
        finally:
            self._lock.release()

    def _define(self, message: Define, patches: WeightPatches, check: Check | None) -> None:
        for _ in range(_MAX_ROUNDS):
            missing = self._missing(message, check, patches.skeleton)
            if not missing:
                return
            if not patches.tensors.keys() >= set(missing):
                raise MessageError("the worker misses tensors that were not named to it")
            with Pipeline(self._at_once, check) as pipeline:
                progress = _Progress(sum(patches.tensors[name].nbytes for name in missing), patches.on_upload)
                for group in _groups([(name, patches.tensors[name]) for name in missing]):
                    if group[0][1].nbytes > PART_BYTES:
                        self._put_large(pipeline, *group[0], progress)
                    else:
                        self._put(pipeline, group, progress)
                pipeline.finish()
        raise WorkerFaultError(
            "The worker does not keep what is uploaded: give it more room (COMFY_GPU_OFFLOAD_STORE_BYTES and "
            "COMFY_GPU_OFFLOAD_UPLOAD_BYTES there).",
            code=FaultCode.MISSING_TENSORS.value,
        )

    def _put(
        self, pipeline: Pipeline, group: _Group, progress: _Progress, then: Callable[[], None] = lambda: None
    ) -> None:
        """Send small tensors together, in one frame."""
        size = sum(tensor.nbytes for _, tensor in group)

        def send(check: Check) -> None:
            parts = [Part(str(number), tensor.detach(), name) for number, (name, tensor) in enumerate(group)]
            reply = self._exchange(Store(client=self._client), None, parts, self._codec(), check)
            expect_answer(reply.message, Stored)

        def sent() -> None:
            progress.add(size)
            then()

        pipeline.put(send, sent)

    def _put_large(self, pipeline: Pipeline, name: bytes, tensor: torch.Tensor, progress: _Progress) -> None:
        """Send one large tensor in parts, as far as the worker lacks them; it joins them after the last one."""
        tensor = on_host(tensor)
        flat = tensor.reshape(-1)  # row-major, whatever the strides
        named = [(digest(part), part) for part in torch.split(flat, PART_BYTES // flat.itemsize)]
        cuts = dict(named)  # equal parts are sent once
        whole = WholeTensor(
            digest=name,
            dtype=str(tensor.dtype).removeprefix("torch."),
            shape=tuple(tensor.shape),
            strides=strides_of(tensor),
            parts=tuple(part for part, _ in named),
        )
        join = Store(client=self._client, whole=whole)
        missing = set(self._missing(join, pipeline.check))
        if not missing <= cuts.keys():
            raise MessageError("the worker misses parts that were not named to it")
        progress.add(flat.nbytes - sum(cuts[part].nbytes for part in missing))
        left = len(missing)

        def joined() -> None:
            nonlocal left
            left -= 1
            if not left:
                # The next `define` reports parts that the worker has dropped again.
                pipeline.put(lambda check: self._missing(join, check))

        for part in missing:
            self._put(pipeline, [(part, cuts[part])], progress, joined)

    def _missing(self, message: Store | Define, check: Check | None, skeleton: Any = None) -> tuple[bytes, ...]:
        """Send `message`; return the digests of the tensors that the worker lacks for it, none if it is done."""
        fault = self._exchange(message, skeleton, (), codecs.RAW, check).message
        if not isinstance(fault, Fault):
            expect(fault, Stored)
            return ()
        if fault.code is not FaultCode.MISSING_TENSORS or not fault.missing:
            raise error_of(fault)
        return fault.missing


class _Progress:
    """Counter of the bytes of one upload that are at the worker. For one thread."""

    def __init__(self, total: int, told: OnUpload) -> None:
        self._done, self._total, self._told = 0, total, told
        told(0, total)

    def add(self, size: int) -> None:
        self._done += size
        self._told(self._done, self._total)


def _groups(named: _Group) -> Iterator[_Group]:
    """Yield groups of at most `PART_BYTES` together; a larger tensor is a group of its own."""
    group: _Group = []
    size = 0
    for name, tensor in named:
        if group and size + tensor.nbytes > PART_BYTES:
            yield group
            group, size = [], 0
        group.append((name, tensor))
        size += tensor.nbytes
    if group:
        yield group
