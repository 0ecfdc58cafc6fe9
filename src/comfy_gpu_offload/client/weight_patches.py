"""Changes to a remote model's weights, and how they get to its worker: once, by digest."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from ..errors import MessageError, WorkerFaultError
from ..io import codecs
from ..io.buffers import tensor_bytes
from ..io.digests import digest, skeleton_digest
from ..io.frame import EncodedFrame, Part
from ..io.tree import pack
from ..protocol.envelope import Envelope, seal, seal_parts
from ..protocol.messages import Define, Fault, FaultCode, PatchRef, Store, Stored, WholeTensor, expect
from ..transport.base import CHECK_INTERVAL_S, Check
from .faults import error_of

# Base64 of it and its header stay far below what RunPod's queue takes in a job (10 MB).
PART_BYTES = 4 * 1024**2
_KNOWN_KEPT = 1024
# A worker that still lacks what was just uploaded has no room for it.
_MAX_ROUNDS = 3

# Told of an upload's progress: bytes that are there, bytes in all.
OnUpload = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class WeightPatches:
    """Patches to a model's weights. docs/protocol.md, "Weight patches".

    Attributes:
        template: what is changed how; plain data that names tensors by digest, and strengths by position.
        strengths: pairs: of a patch, and of what it is added to.
        tensors: by digest, anywhere; only those that the worker lacks are read.
        on_upload: told of an upload's progress.
        ref: what names them in a call.
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


class Exchange(Protocol):
    """Has one frame answered, tried again where that helps."""

    def __call__(self, frame: EncodedFrame, check: Check | None) -> Envelope:
        """The reply, a fault where it is one."""


class PatchUploads:
    """Makes weight patches known to one worker. Thread-safe; one upload at a time.

    Args:
        exchange: how frames get there.
        client: the session's name.
        codec: what parts are stored with; what changes values is not used, since they go by digest.
    """

    def __init__(self, exchange: Exchange, client: str, codec: codecs.Codec | codecs.Chooser) -> None:
        self._exchange = exchange
        self._client = client
        self._codec = codec
        self._known: OrderedDict[bytes, None] = OrderedDict()
        self._lock = threading.Lock()

    def ensure(self, patches: WeightPatches | None, check: Check | None) -> None:
        """`define`, unless this session has done it before."""
        if patches is not None and patches.ref.template not in self._known:
            self.define(patches, check)

    def define(self, patches: WeightPatches, check: Check | None) -> None:
        """Makes `patches` known to the worker; uploads what it lacks. Goes on where an earlier upload stopped.

        Raises:
            TransportError: the worker cannot be reached.
            WorkerFaultError: it refused them.
        """
        while not self._lock.acquire(timeout=CHECK_INTERVAL_S):
            if check is not None:
                check()
        try:
            message = Define(client=self._client, template=patches.ref.template)
            frame = seal_parts(message, patches.skeleton, [])
            self._until_nothing_is_missing(
                frame, lambda missing: self._upload(missing, patches.tensors, patches.on_upload, check), check
            )
            self._known[patches.ref.template] = None
            if len(self._known) > _KNOWN_KEPT:
                self._known.popitem(last=False)
        finally:
            self._lock.release()

    def _until_nothing_is_missing(
        self, frame: EncodedFrame, upload: Callable[[tuple[bytes, ...]], None], check: Check | None
    ) -> None:
        for _ in range(_MAX_ROUNDS):
            envelope = self._exchange(frame, check)
            if not isinstance(envelope.message, Fault):
                expect(envelope.message, Stored)
                return
            if envelope.message.code is not FaultCode.MISSING_TENSORS:
                raise error_of(envelope.message)
            upload(envelope.message.missing)
        raise WorkerFaultError(
            "The worker does not keep what is uploaded: give it more room (COMFY_GPU_OFFLOAD_STORE_BYTES and "
            "COMFY_GPU_OFFLOAD_UPLOAD_BYTES there).",
            code=FaultCode.MISSING_TENSORS.value,
        )

    def _upload(
        self,
        missing: tuple[bytes, ...],
        tensors: Mapping[bytes, torch.Tensor],
        on_upload: OnUpload,
        check: Check | None,
    ) -> None:
        if not tensors.keys() >= set(missing):
            raise MessageError("the worker misses tensors that were not named to it")
        total = sum(tensors[name].nbytes for name in missing)
        done = 0
        for group in _groups([(name, tensors[name]) for name in missing]):
            on_upload(done, total)
            if len(group) == 1 and group[0][1].nbytes > PART_BYTES:
                start = done
                self._upload_large(*group[0], lambda sent, start=start: on_upload(start + sent, total), check)  # type: ignore[misc]
            else:
                self._send(group, check)
            done += sum(tensor.nbytes for _, tensor in group)
        on_upload(done, total)

    def _upload_large(
        self, name: bytes, tensor: torch.Tensor, sent: Callable[[int], None], check: Check | None
    ) -> None:
        """One that is cut into parts; the worker puts it together again."""
        data = torch.frombuffer(tensor_bytes(tensor), dtype=torch.uint8)
        named = [(digest(part), part) for part in torch.split(data, PART_BYTES)]
        cuts = dict(named)  # equal parts travel once
        whole = WholeTensor(
            digest=name,
            dtype=str(tensor.dtype).removeprefix("torch."),
            shape=tuple(tensor.shape),
            parts=tuple(part for part, _ in named),
        )

        def upload(missing: tuple[bytes, ...]) -> None:
            here = max(0, data.nbytes - sum(cuts[part].nbytes for part in missing if part in cuts))
            for part in missing:
                if part not in cuts:
                    raise MessageError("the worker misses parts that were not named to it")
                self._send([(part, cuts[part])], check)
                here += cuts[part].nbytes
                sent(here)

        self._until_nothing_is_missing(seal(Store(client=self._client, whole=whole)), upload, check)

    def _send(self, group: list[tuple[bytes, torch.Tensor]], check: Check | None) -> None:
        parts = [Part(str(number), tensor.detach(), name) for number, (name, tensor) in enumerate(group)]
        frame = seal_parts(Store(client=self._client), None, parts, self._codec)
        envelope = self._exchange(frame, check)
        if isinstance(envelope.message, Fault):
            raise error_of(envelope.message)
        expect(envelope.message, Stored)


def _groups(named: list[tuple[bytes, torch.Tensor]]) -> Iterator[list[tuple[bytes, torch.Tensor]]]:
    """Of at most `PART_BYTES` together; one that is larger is alone."""
    group: list[tuple[bytes, torch.Tensor]] = []
    size = 0
    for name, tensor in named:
        if group and size + tensor.nbytes > PART_BYTES:
            yield group
            group, size = [], 0
        group.append((name, tensor))
        size += tensor.nbytes
    if group:
        yield group
