"""What clients upload to be used again and again: the tensors of weight patches, and the sets made of them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import torch

from ..backends.base import HookSet, PatchSet
from ..errors import MessageError
from ..io import tree
from ..io.buffers import tensor_bytes, tensor_from
from ..io.digests import DIGEST_BYTES, digest, skeleton_digest
from ..io.dtypes import TORCH_DTYPES
from ..io.frame import Received
from ..io.strides import are_strides, with_strides
from ..protocol.messages import Fault, FaultCode, HookRef, PatchRef, WholeTensor
from .blob_folder import BlobFolder
from .blob_store import BlobStore
from .faults import RefusedError, missing_tensors, wrong_digest

_MAX_SETS = 16


class Uploads:
    """Uploaded tensors, in memory and then in a folder, and the patch sets that name them. Thread-safe.

    Args:
        store: the tensors kept in memory, shared with those that recur in calls.
        folder: where they are kept besides, or None.
    """

    def __init__(self, store: BlobStore, folder: BlobFolder | None) -> None:
        self._store = store
        self._folder = folder
        self._sets: OrderedDict[bytes, tuple[Any, dict[bytes, torch.Tensor]]] = OrderedDict()
        self._lock = threading.Lock()

    def keep(self, received: tuple[Received, ...]) -> None:
        """Keeps tensors that came with their data and digest.

        Raises:
            MessageError: one came without either.
            RefusedError: one is not what its digest says.
        """
        for entry in received:
            if entry.tensor is None or entry.digest is None:
                raise MessageError("an upload's tensors come with their data and their digests")
            self._put(entry.digest, entry.tensor)

    def join(self, whole: WholeTensor) -> None:
        """Makes one tensor of parts that were uploaded, and keeps it in their place.

        Raises:
            MessageError: the parts are not as long as the whole.
            RefusedError: a part is missing, or the whole is not what its digest says, or larger than what is kept.
        """
        if self._get(whole.digest) is not None:
            return
        self._refuse_larger_than_kept(whole.size_bytes)
        parts = self._all(list(dict.fromkeys(whole.parts)))
        # Before they are joined: a part may be named many times.
        if sum(parts[part].nbytes for part in whole.parts) != whole.size_bytes:
            raise MessageError("the parts of a tensor are not as long as the tensor")
        if not _has_its_strides(whole):
            raise MessageError("a tensor of parts has strides that are not of its shape")
        data = torch.cat([parts[part].flatten().view(torch.uint8) for part in whole.parts])
        made = tensor_from(tensor_bytes(data), TORCH_DTYPES[whole.dtype], whole.shape)
        self._put(whole.digest, with_strides(made, whole.strides))
        if self._folder is not None:
            for part in whole.parts:
                self._folder.drop(part)

    def define(self, name: bytes, skeleton: Any) -> None:
        """Makes a patch set known: its template names tensors that were uploaded.

        `skeleton`: the template's, or None to ask whether the set is known already.

        Raises:
            FrameError: the skeleton is malformed.
            RefusedError: a tensor is missing, or the template; or the set is not what its name says.
        """
        if skeleton is None:
            self._refuse_unless_known(name)
            return
        if skeleton_digest(skeleton) != name:
            raise wrong_digest("A patch set")
        with self._lock:
            if name in self._sets:
                return
        template = tree.unpack(skeleton, ())
        tensors = self._all(list(dict.fromkeys(_digests(template))))
        with self._lock:
            self._sets[name] = (template, tensors)
            while len(self._sets) > _MAX_SETS or (len(self._sets) > 1 and self._used() > self._store.budget_bytes):
                self._sets.popitem(last=False)

    def _refuse_larger_than_kept(self, size_bytes: int) -> None:
        room = self._store.budget_bytes if self._folder is None else self._folder.budget_bytes
        if size_bytes > max(room, self._store.budget_bytes):
            text = (
                f"An uploaded tensor takes {size_bytes / 1e6:.0f} MB, and the worker keeps no such: give it "
                "more room (COMFY_GPU_OFFLOAD_STORE_BYTES and COMFY_GPU_OFFLOAD_UPLOAD_BYTES there)."
            )
            raise RefusedError(Fault(code=FaultCode.TOO_LARGE, message=text))

    def _refuse_unless_known(self, name: bytes) -> None:
        with self._lock:
            if name in self._sets:
                self._sets.move_to_end(name)
                return
        text = "This worker does not have these weight patches yet."
        raise RefusedError(Fault(code=FaultCode.MISSING_TENSORS, message=text, retryable=True, missing=(name,)))

    def patch_set(self, ref: PatchRef | None) -> PatchSet | None:
        """The set that a call names.

        Raises:
            RefusedError: it has not been defined here.
        """
        if ref is None:
            return None
        with self._lock:
            found = self._sets.get(ref.template)
            if found is None:
                text = "This worker does not have these weight patches: it was restarted, or is another one."
                raise RefusedError(Fault(code=FaultCode.UNKNOWN_PATCHES, message=text, retryable=True))
            self._sets.move_to_end(ref.template)
        template, tensors = found
        return PatchSet(ref.template, template, ref.strengths, tensors)

    def hook_set(self, ref: HookRef | None) -> HookSet | None:
        """The set of a call's hooks.

        Raises:
            RefusedError: it has not been defined here.
        """
        return None if ref is None else HookSet(self.patch_set(ref.patches), ref.single, ref.group)

    def _used(self) -> int:
        return sum(tensor.nbytes for _, tensors in self._sets.values() for tensor in tensors.values())

    def _put(self, name: bytes, tensor: torch.Tensor) -> None:
        # Checked, because other clients will be given this tensor by that name.
        if digest(tensor) != name:
            raise wrong_digest("An uploaded tensor")
        self._store.put(name, tensor)
        if self._folder is not None:
            self._folder.put(name, tensor)

    def _get(self, name: bytes) -> torch.Tensor | None:
        found = self._store.get(name)
        if found is None and self._folder is not None:
            found = self._folder.get(name)
            if found is not None:
                self._store.put(name, found)
        return found

    def _all(self, names: list[bytes]) -> dict[bytes, torch.Tensor]:
        found = {name: self._get(name) for name in names}
        missing = tuple(name for name, tensor in found.items() if tensor is None)
        if missing:
            raise RefusedError(missing_tensors(missing))
        return {name: tensor for name, tensor in found.items() if tensor is not None}


def _has_its_strides(whole: WholeTensor) -> bool:
    if whole.strides is None:
        return True
    return whole.size_bytes > 0 and are_strides(whole.shape, whole.strides, TORCH_DTYPES[whole.dtype].itemsize)


def _digests(value: Any) -> Iterator[bytes]:
    """Every tensor that a template names: its leaves of that many bytes."""
    if isinstance(value, bytes) and len(value) == DIGEST_BYTES:
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _digests(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _digests(item)
