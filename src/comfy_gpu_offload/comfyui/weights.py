"""Weight patches of a remote model (LoRA and its kin): what of a patcher goes to the worker, by digest."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from typing import Any

import comfy.utils
import torch

from ..client.weight_patches import OnUpload, WeightPatches
from ..io.digests import digest, sample
from ..server.backends.comfyui_patches import refused, to_data


class _Digests:
    """Digests of tensors that are alive, each hashed once.

    ComfyUI loads weights as inference tensors, which count no versions: a sample of the data stands in for that.
    LoRA weights are not written to; ComfyUI itself takes patches with the same `patches_uuid` for the same.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[torch.Tensor], int, bytes]] = {}
        self._lock = threading.Lock()

    def __call__(self, tensor: torch.Tensor) -> bytes:
        """Its digest."""
        on_host = tensor.detach().cpu()
        seen, key = sample(on_host), id(tensor)
        with self._lock:
            found = self._known.get(key)
        if found is not None and found[0]() is tensor and found[1] == seen:
            return found[2]
        value = digest(on_host)
        forget = weakref.ref(tensor, lambda _, key=key: self._known.pop(key, None))  # type: ignore[misc]
        with self._lock:
            self._known[key] = (forget, seen, value)
        return value


_digest = _Digests()


def weight_patches(patcher: Any) -> WeightPatches | None:
    """What `patcher.patches` says, to go with each call; None where it is empty.

    Call it where `refused_weights` finds nothing.
    """
    if not patcher.patches:
        return None
    data = to_data(patcher.patches, _shapes(patcher), _digest)
    return WeightPatches(data.template, tuple(data.strengths), data.tensors, _upload_bar())


def refused_weights(patcher: Any) -> Iterator[str]:
    """A line for everything among a patcher's weight patches that cannot travel."""
    if patcher.patches:
        yield from refused(patcher.patches, _shapes(patcher))


def _shapes(patcher: Any) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in patcher.model.state_dict().items()}


def _upload_bar() -> OnUpload:
    """Shows an upload on the node that runs; where nothing is uploaded it shows nothing."""
    bars: list[Any] = []

    def show(done: int, total: int) -> None:
        if not bars:
            bars.append(comfy.utils.ProgressBar(total))
        bars[0].update_absolute(done, total)

    return show
