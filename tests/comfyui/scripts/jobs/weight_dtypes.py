"""Every kind of weight patch at two strengths, and stacks of them, on weights of each dtype that a CPU holds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import comfy.sd
import comfy.utils
import torch
from comfy.cli_args import args as comfy_args
from sessions import Pair, sampled, three_ways
from sides import FOLDER, MMDIT, Kind, Patch, case

_KINDS = ("lora", "dora", "loha", "lokr", "oft", "boft", "glora", "diff", "set")
_STRENGTHS = (1.0, 0.6)
_STACKS: dict[str, tuple[tuple[str, float], ...]] = {
    "two LoRAs": (("kind-lora", 0.8), ("kind-lora-2", -0.5)),
    "a LoRA on a diff on a DoRA": (("kind-dora", 1.0), ("kind-diff", 0.5), ("kind-lora", 0.7)),
    "a LoKr on a set": (("kind-set", 1.0), ("kind-lokr", 0.9)),
}
# File, weight_dtype, and the name of ComfyUI's own switch for weights in half precision: without it a CPU gets them
# widened.
WEIGHTS: dict[str, tuple[str, str, str | None]] = {
    "bfloat16": ("mmdit-bf16.safetensors", "default", "bf16_unet"),
    "float16": ("mmdit-fp16.safetensors", "default", "fp16_unet"),
    "float8_e4m3fn": (MMDIT.file, "fp8_e4m3fn", None),
    "float8_e5m2": (MMDIT.file, "fp8_e5m2", None),
}


def loras(*named: tuple[str, float]) -> Patch:
    """Return a patch by files of the loras folder, each at its strength, one upon another."""

    def patch(model: Any) -> Any:
        for name, strength in named:
            weights = comfy.utils.load_torch_file(str(FOLDER / "loras" / f"{name}.safetensors"), safe_load=True)
            model, _ = comfy.sd.load_lora_for_models(model, None, weights, strength, 0)
        return model

    return patch


@contextmanager
def switched(name: str | None) -> Iterator[None]:
    if name is not None:
        setattr(comfy_args, name, True)
    try:
        yield
    finally:
        if name is not None:
            setattr(comfy_args, name, False)


def weight_dtypes() -> dict[str, Any]:
    """Return for each dtype what its weights are kept in, and for each patch whether the three ways agree."""
    return {name: _of(*weights) for name, weights in WEIGHTS.items()}


def _of(file: str, weight_dtype: str, switch: str | None) -> dict[str, Any]:
    with switched(switch):
        pair = Pair.of(Kind(file, MMDIT.latent, MMDIT.width, MMDIT.pooled), weight_dtype)
    this = case(MMDIT, steps=2)
    plain = sampled(pair.stock, this)
    patches = {
        f"{kind} {strength}": loras((f"kind-{kind}", strength)) for kind in _KINDS for strength in _STRENGTHS
    } | {name: loras(*named) for name, named in _STACKS.items()}
    runs = {}
    for name, patch in patches.items():
        result, same = three_ways(pair, this, patch)
        runs[name] = {
            **same,
            "mattered": not torch.allclose(result, plain, atol=1e-2),
            "finite": bool(result.isfinite().all()),
            "first": [float(value) for value in result.flatten()[:4]],
        }
    kept = {str(each.dtype).removeprefix("torch.") for each in pair.stock.model.diffusion_model.parameters()}
    return {"kept": sorted(kept), "unpatched again": torch.equal(plain, sampled(pair.remote, this)), "runs": runs}
