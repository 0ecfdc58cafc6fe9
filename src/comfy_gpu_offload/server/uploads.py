"""The uploads of clients: tensors, and the sets of weight patches that name them."""

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
    """Uploaded tensors, in memory and in a folder, and the patch sets that name them. Thread-safe.

    Args:
        store: the tensors in memory, shared with those of calls.
        folder: the tensors on disk, or None.

    The lock guards the table of patch sets only. Tensors are hashed, joined, read and written without it, since
    that takes long; the store and the folder have locks of their own.
    """

    def __init__(self, store: BlobStore, folder: BlobFolder | None) -> None:
        self._store = store
        self._folder = folder
        self._sets: OrderedDict[bytes, tuple[Any, dict[bytes, torch.Tensor]]] = OrderedDict()
        self._lock = threading.Lock()

    def keep(self, received: tuple[Received, ...]) -> None:
        """Keep tensors that came with their data and digest.

        Raises:
            MessageError: a tensor came without data or without a digest.
            RefusedError: a tensor does not match its digest.
        """
        for entry in received:
            if entry.tensor is None or entry.digest is None:
                raise MessageError("the tensors of an upload must come with their data and their digests")
            self._put(entry.digest, entry.tensor)

    def join(self, whole: WholeTensor) -> None:
        """Join uploaded parts to one tensor, and keep it in their place.

        Raises:
            MessageError: the parts are not as long as the whole, or its strides do not fit its shape.
            RefusedError: a part is missing, or the whole does not match its digest or is too large to keep.
        """
        if self._get(whole.digest) is not None:
            return
        self._refuse_larger_than_kept(whole.size_bytes)
        parts = self._all(list(dict.fromkeys(whole.parts)))
        # Checked before the parts are joined, since one part may be named many times.
        if sum(parts[part].nbytes for part in whole.parts) != whole.size_bytes:
            raise MessageError("the parts of an uploaded tensor do not have its size")
        if not _has_its_strides(whole):
            raise MessageError("the strides of an uploaded tensor do not fit its shape")
        data = torch.cat([parts[part].flatten().view(torch.uint8) for part in whole.parts])
        made = tensor_from(tensor_bytes(data), TORCH_DTYPES[whole.dtype], whole.shape)
        self._put(whole.digest, with_strides(made, whole.strides))
        if self._folder is not None:
            for part in whole.parts:
                self._folder.drop(part)

    def define(self, name: bytes, skeleton: Any) -> None:
        """Keep a patch set, whose template names uploaded tensors.

        Args:
            name: the digest of `skeleton`.
            skeleton: of the template's tree; None to ask whether the set is known.

        Raises:
            FrameError: the skeleton is malformed.
            RefusedError: a tensor is missing, or the template is; or the template does not match `name`.
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
                f"An uploaded tensor takes {size_bytes / 1e6:.0f} MB, more than the worker keeps: raise "
                "COMFY_GPU_OFFLOAD_STORE_BYTES or COMFY_GPU_OFFLOAD_UPLOAD_BYTES there."
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
        """Return the patch set that a call names, or None for None.

        Raises:
            RefusedError: the set has not been defined here.
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
        """Return the patches of a call's hooks, or None for None.

        Raises:
            RefusedError: their patch set has not been defined here.
        """
        return None if ref is None else HookSet(self.patch_set(ref.patches), ref.single, ref.group)

    def _used(self) -> int:
        return sum(tensor.nbytes for _, tensors in self._sets.values() for tensor in tensors.values())

    def _put(self, name: bytes, tensor: torch.Tensor) -> None:
        # Checked, because other clients that name this digest are given this tensor.
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
    """Yield the digest of every tensor that a template names: its leaves of the length of a digest."""
    if isinstance(value, bytes) and len(value) == DIGEST_BYTES:
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _digests(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _digests(item)
