"""Weight patches of a remote model (LoRA and its kin): what of a patcher goes to the worker, by digest."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import comfy.utils
import torch

from ..client.weight_patches import OnUpload, WeightPatches
from ..errors import Obstacle
from ..io.digests import digest, sample
from ..server.backends.comfyui_patch_shapes import NotDataError
from ..server.backends.comfyui_patch_writer import ModelWeight, PatchData, refused, to_data
from .obstacles import LORA_NODES, LORA_REMEDY
from .remote_weight import RemoteWeight

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
    data = data_of(patcher.patches, patcher)
    if data.unlike:
        logger.warning(
            "%d of the weights to merge are not of the shape that this model's have: they are left out, as here.",
            data.unlike,
        )
    return WeightPatches(data.template, tuple(data.strengths), data.tensors, upload_bar())


def data_of(patches: Mapping[str, Sequence[Any]], patcher: Any) -> PatchData:
    """Patches for a patcher's weights as data."""
    return to_data(patches, _shapes(patcher), _digest, _weight_of(patcher))


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
    """Everything among patches for a patcher's weights that cannot travel; `nodes` usually put it there."""
    for error, count in refused(patches, _shapes(patcher), weight_of or _weight_of(patcher)):
        what = f"{error}, on {count} layer{'' if count == 1 else 's'}"
        yield Obstacle(what, error.nodes or nodes, error.remedy or LORA_REMEDY)


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


def _shapes(patcher: Any) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in patcher.model.state_dict().items()}


def upload_bar() -> OnUpload:
    """Shows an upload on the node that runs; where nothing is uploaded it shows nothing."""
    bars: list[Any] = []

    def show(done: int, total: int) -> None:
        if not bars:
            bars.append(comfy.utils.ProgressBar(total))
        bars[0].update_absolute(done, total)

    return show
