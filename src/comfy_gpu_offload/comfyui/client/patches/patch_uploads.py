"""Weight patches of a remote model (LoRA and its kin): what of a patcher goes to the worker, by digest."""

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
from ...wire.patch_shapes import NotDataError
from ...wire.patch_writer import ModelWeight, PatchData, read, to_data
from ..refusals import LORA_NODES, LORA_REMEDY
from ..remote_state import state_of
from ..remote_weight import RemoteWeight
from . import skipped_patches
from .misfit_patches import passed_over

logger = logging.getLogger(__name__)

_MERGES = "ModelMergeSimple, ModelMergeBlocks and their kin"
# What a layer with quantised weights has besides (comfy.ops, of later releases).
_QUANTISED = ".comfy_quant"


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


def travelling(data: PatchData) -> WeightPatches:
    """Return patches as they go with each call."""
    return WeightPatches(data.template, tuple(data.strengths), data.tensors, upload_bar())


def data_of(patches: Mapping[str, Sequence[Any]], patcher: Any) -> PatchData:
    """Return patches for a patcher's weights as data. Call it where `refused_weights` finds nothing."""
    return to_data(patches, _shapes(patcher), _digest, _weight_of(patcher), passed_over)


def tell_of_data(data: PatchData, patcher: Any) -> None:
    """Say in the log and on the node that runs which of a patcher's patches are left out."""
    if data.unlike:
        logger.warning(
            "%d of the weights to merge are not of the shape that this model's have: they are left out, as here.",
            data.unlike,
        )
    skipped_patches.tell(data.left_out, patcher.patches, patcher.origins)


def tell_of_added(patches: Mapping[Any, Any], patcher: Any) -> None:
    """Say of patches that a node has just added which of them do not fit; the rest is said when they are used."""
    keys = {key if isinstance(key, str) else key[0] for key in patches}
    listed = {key: patcher.patches[key] for key in keys if key in patcher.patches}
    added = {id(value) for value in patches.values()}
    found = read(listed, _shapes(patcher), _weight_of(patcher), passed_over)
    skipped_patches.tell([each for each in found.left_out if id(each.value) in added], listed, patcher.origins)


def refused_weights(patcher: Any) -> Iterator[Obstacle]:
    """Everything among a patcher's weight patches that cannot travel."""
    if patcher.patches:
        yield from obstacles_among(patcher.patches, patcher, LORA_NODES)


def obstacles_among(
    patches: Mapping[str, Sequence[Any]],
    patcher: Any,
    nodes: str,
    weight_of: Callable[[Any], ModelWeight] | None = None,
) -> Iterator[Obstacle]:
    """Everything among patches for a patcher's weights that cannot travel; `nodes` usually put it there.

    Patches that do not fit are no obstacle, unless nothing of a file fits: it is for another model.
    """
    found = read(patches, _shapes(patcher), weight_of or _weight_of(patcher), passed_over)
    for error, count in found.refused:
        what = f"{error}, {skipped_patches.on_layers(count)}"
        yield Obstacle(what, error.nodes or nodes, error.remedy or LORA_REMEDY)
    for what in skipped_patches.wholly(found.left_out, patches, patcher.origins):
        yield Obstacle(what, nodes, LORA_REMEDY)


def _weight_of(patcher: Any) -> Callable[[Any], ModelWeight]:
    """Finds what a stand-in in a merge into this model stands for."""
    known: dict[int, tuple[str, str, str]] = {}

    def weight_of(weight: Any) -> ModelWeight:
        if not isinstance(weight, RemoteWeight):
            raise NotDataError(
                "a model merge whose second model is loaded here", _MERGES, "Load both with Remote Model Loader."
            )
        number = id(weight.remote)
        if number not in known:
            known[number] = _second(patcher, weight)
        return ModelWeight(known[number], weight.key, tuple(weight.shape))

    return weight_of


def _second(patcher: Any, weight: RemoteWeight) -> tuple[str, str, str]:
    """Name, weight dtype and fingerprint of the model that a stand-in is of."""
    if not weight.remote.shares_worker_with(patcher.remote):
        raise NotDataError(
            "a model merge whose second model is at another worker", _MERGES, "Load both from the same worker."
        )
    if any(key.endswith(_QUANTISED) for key in weight.remote.details["keys"]):
        raise NotDataError(
            "a model merge whose second model has quantised weights, which ComfyUI does not merge",
            _MERGES,
            "Use a file of it that is not quantised.",
        )
    described = weight.remote.description
    return described.ref.name, described.ref.weight_dtype, described.fingerprint


def _shapes(patcher: Any) -> Mapping[str, tuple[int, ...]]:
    return state_of(patcher.model.diffusion_model).file_shapes


def upload_bar() -> OnUpload:
    """Shows an upload on the node that runs; where nothing is uploaded it shows nothing."""
    bars: list[Any] = []

    def show(done: int, total: int) -> None:
        if not bars:
            bars.append(comfy.utils.ProgressBar(total))
        bars[0].update_absolute(done, total)

    return show
