"""Weight patches of a remote model (LoRA and similar) as data for the worker, with tensors named by digest."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import comfy.utils
import torch

from ....client.weight_patches import OnUpload, WeightPatches
from ....errors import Obstacle
from ....io.buffers import on_host
from ....io.digests import digest, sample
from ....protocol.messages import ModelRef
from ...wire.file_contents import keys_of
from ...wire.patch_shapes import NotDataError
from ...wire.patch_writer import Examined, ModelWeight, PatchData, examine_patches, write_patches
from ..refusals import LORA_NODES, LORA_REMEDY
from ..remote_state import state_of
from ..remote_weight import RemoteWeight
from . import skipped_patches
from .misfit_patches import shape_if_skipped

logger = logging.getLogger(__name__)

_MERGES = "ModelMergeSimple, ModelMergeBlocks and similar"
# The key of an extra entry that layers with quantised weights have (comfy.ops, in later releases).
_QUANTISED = ".comfy_quant"


class _Digests:
    """The digests of living tensors, each hashed once.

    A tensor that has been written to is hashed again. ComfyUI loads weights as inference tensors, which have no
    version counter, so a sample of the data is compared instead. It misses small writes, but nothing writes to LoRA
    weights: ComfyUI itself takes patches with the same `patches_uuid` for unchanged.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[torch.Tensor], int, bytes]] = {}
        self._lock = threading.Lock()

    def __call__(self, tensor: torch.Tensor) -> bytes:
        """Return the digest of a tensor's content."""
        here = on_host(tensor)
        seen, key = sample(here), id(tensor)
        with self._lock:
            found = self._known.get(key)
        if found is not None and found[0]() is tensor and found[1] == seen:
            return found[2]
        value = digest(here)
        forget = weakref.ref(tensor, lambda _, key=key: self._known.pop(key, None))  # type: ignore[misc]
        with self._lock:
            self._known[key] = (forget, seen, value)
        return value


_digest = _Digests()


def as_weight_patches(data: PatchData) -> WeightPatches:
    """Return patches in the form in which calls name them."""
    return WeightPatches(data.template, tuple(data.strengths), data.tensors, upload_bar())


def patch_data(patches: Mapping[str, Sequence[Any]], patcher: Any) -> PatchData:
    """Return patches on a patcher's weights as data.

    Call it only if `patch_obstacles` finds nothing among them.

    Args:
        patches: by the weight's key, ComfyUI's patches on it.
        patcher: the remote model's patcher.
    """
    return write_patches(
        patches, _shapes(patcher), _digest, _weight_of(patcher), shape_if_skipped, prefix=patcher.weight_prefix
    )


def report_skipped(data: PatchData, patcher: Any) -> None:
    """Report, in the log and on the running node, which of a patcher's patches are left out of `data`."""
    if data.unlike:
        logger.warning(
            "Model merge: %d weights differ in shape from this model's and are left out, as ComfyUI does.",
            data.unlike,
        )
    skipped_patches.report(data.left_out, patcher.patches, patcher.origins)


def report_added(patches: Mapping[Any, Any], patcher: Any) -> None:
    """Report which of the patches that a node has just added do not fit. Merges are reported when they are used.

    Args:
        patches: as given to `ModelPatcher.add_patches`: values by key, or by key and offset.
        patcher: the remote model's patcher, after they were added.
    """
    keys = {key if isinstance(key, str) else key[0] for key in patches}
    listed = {key: patcher.patches[key] for key in keys if key in patcher.patches}
    added = {id(value) for value in patches.values()}
    found = _examined(listed, patcher)
    skipped_patches.report([each for each in found.left_out if id(each.value) in added], listed, patcher.origins)


def weight_obstacles(patcher: Any) -> Iterator[Obstacle]:
    """Yield the reasons why a patcher's weight patches cannot be sent to the worker."""
    if patcher.patches:
        yield from patch_obstacles(patcher.patches, patcher, LORA_NODES)


def patch_obstacles(
    patches: Mapping[str, Sequence[Any]],
    patcher: Any,
    nodes: str,
    weight_of: Callable[[Any], ModelWeight] | None = None,
) -> Iterator[Obstacle]:
    """Yield the reasons why patches on a patcher's weights cannot be sent to the worker.

    A patch that does not fit its weight is left out, as in ComfyUI. But a file of which nothing fits is refused,
    because it was made for another model.

    Args:
        patches: by the weight's key, ComfyUI's patches on it.
        patcher: the remote model's patcher.
        nodes: the nodes that usually add such patches.
        weight_of: finds the weight that a merge names (`wire.patch_writer`); None for weights at the same worker.
    """
    found = _examined(patches, patcher, weight_of)
    for error, count in found.refused:
        what = f"{error}, {skipped_patches.on_layers(count)}"
        yield Obstacle(what, error.nodes or nodes, error.remedy or LORA_REMEDY)
    for what in skipped_patches.files_that_do_not_fit(found.left_out, patches, patcher.origins):
        yield Obstacle(what, nodes, LORA_REMEDY)


def _examined(
    patches: Mapping[str, Sequence[Any]], patcher: Any, weight_of: Callable[[Any], ModelWeight] | None = None
) -> Examined:
    find = weight_of or _weight_of(patcher)
    return examine_patches(patches, _shapes(patcher), find, shape_if_skipped, prefix=patcher.weight_prefix)


def _weight_of(patcher: Any) -> Callable[[Any], ModelWeight]:
    """Return a function that finds the worker's weight for a stand-in in a merge into this model."""
    known: dict[int, tuple[ModelRef, str]] = {}

    def weight_of(weight: Any) -> ModelWeight:
        if not isinstance(weight, RemoteWeight):
            raise NotDataError(
                "a model merge whose second model is loaded here",
                _MERGES,
                "Load both with remote loaders.",
            )
        number = id(weight.remote)
        if number not in known:
            known[number] = _second(patcher, weight)
        return ModelWeight(*known[number], weight.key, tuple(weight.shape))

    return weight_of


def _second(patcher: Any, weight: RemoteWeight) -> tuple[ModelRef, str]:
    """Return reference and fingerprint of the model that a stand-in belongs to."""
    if not weight.remote.shares_worker_with(patcher.remote):
        raise NotDataError(
            "a model merge whose second model is at another worker",
            _MERGES,
            "Load both models from the same worker.",
        )
    if any(key.endswith(_QUANTISED) for key in keys_of(weight.remote.details)):
        raise NotDataError(
            "a model merge whose second model has quantised weights, which ComfyUI does not merge",
            _MERGES,
            "Use a file of that model that is not quantised.",
        )
    described = weight.remote.description
    return described.ref, described.fingerprint


def _shapes(patcher: Any) -> Mapping[str, tuple[int, ...]]:
    return state_of(patcher.network).file_shapes


def upload_bar() -> OnUpload:
    """Return a function that shows an upload's progress on the running node.

    The bar is made with the first bytes, so it never shows if nothing is uploaded.
    """
    bars: list[Any] = []

    def show(done: int, total: int) -> None:
        if not bars:
            bars.append(comfy.utils.ProgressBar(total))
        bars[0].update_absolute(done, total)

    return show
