"""A device without room for the weights of a model: ComfyUI leaves them where they are, and patches them in use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import comfy.model_management as management
import torch
from comfy.model_patcher import ModelPatcher
from merges import merged, side_of
from sessions import Pair, three_ways
from sides import BACKEND, MMDIT, WAN, Patch, case
from weight_dtypes import loras

from comfy_gpu_offload.protocol.messages import ModelRef

_FILES = {
    "mmdit": (MMDIT, "default"),
    "mmdit in fp8": (MMDIT, "fp8_e4m3fn"),
    "wan": (WAN, "default"),
}


@contextmanager
def room_for(size_bytes: int) -> Iterator[None]:
    """Tell ComfyUI how much room there is, for which it does not look on a CPU."""
    load = ModelPatcher.load

    def loaded(self: Any, device_to: Any = None, lowvram_model_memory: int = 0, **further: Any) -> Any:
        return load(self, device_to, size_bytes, **{**further, "full_load": False})

    ModelPatcher.load = loaded
    try:
        yield
    finally:
        ModelPatcher.load = load
        management.unload_all_models()


def low_memory() -> dict[str, Any]:
    """Return for each model and patch whether the three ways agree, and the share that was on the device."""
    BACKEND.close()
    management.unload_all_models()
    found = {}
    with room_for(1), torch.inference_mode():
        for name, (kind, weight_dtype) in _FILES.items():
            pair = Pair.of(kind, weight_dtype)
            for what, patch in _patches(pair, weight_dtype).items():
                _, same = three_ways(pair, case(kind, steps=2), patch)
                patcher = BACKEND.pool.load(ModelRef(name=kind.file, weight_dtype=weight_dtype))[0].patcher
                found[f"{name}, {what}"] = {**same, "share": patcher.loaded_size() / patcher.model_size()}
    return found


def _patches(pair: Pair, weight_dtype: str) -> dict[str, Patch]:
    plain: dict[str, Patch] = {"plain": lambda model: model}
    if pair.remote.remote.description.ref.name != MMDIT.file:
        return plain
    other = Pair.of(replace(MMDIT, file="mmdit-other.safetensors"), weight_dtype)
    return {
        **plain,
        "two adapters": loras(("kind-lora", 0.8), ("kind-lokr", 0.5)),
        "a merge": lambda model: merged(model, side_of(model, other)),
        "a DoRA": loras(("kind-dora", 0.8)),
        "plain again": lambda model: model,
    }
