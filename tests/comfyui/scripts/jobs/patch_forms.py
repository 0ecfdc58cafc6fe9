"""Weight patches of every form that ComfyUI survives: without tensors, too large, or for another model.

    PYTHON patch_forms.py COMFYUI_ROOT MODELS_FOLDER

Prints JSON, for test_patch_forms.py to judge.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

# First: it makes ComfyUI importable.
import sides
import torch
from comfy import hooks, sd
from comfy_extras import nodes_attention_multiply as multiplying
from merges import merged, side_of
from sessions import Pair, sampled, three_ways
from sides import MMDIT, UNET, WAN, Patch, case, noise

from comfy_gpu_offload.errors import OffloadError

Weights = dict[str, torch.Tensor]
_LAYER = "joint_blocks.0.x_block.attn.proj"  # (128, 128)
_OTHERS = replace(MMDIT, file="mmdit-other.safetensors")


def executed(node: Any, **inputs: Any) -> Patch:
    """Return a patch by one of ComfyUI's nodes, of either kind."""
    if hasattr(node, "execute"):
        return lambda model: node.execute(model, **inputs).result[0]
    return lambda model: getattr(node(), node.FUNCTION)(model, **inputs)[0]


def with_lora(weights: Weights, strength: float = 0.8) -> Patch:
    return lambda model: sd.load_lora_for_models(model, None, dict(weights), strength, 0)[0]


def patched_by(patches: dict[Any, Any], strength: float, of_weight: float = 1.0) -> Patch:
    def patch(model: Any) -> Any:
        made = model.clone()
        made.add_patches(patches, strength, of_weight)
        return made

    return patch


def stacked(*patches: Patch) -> Patch:
    def patch(model: Any) -> Any:
        for each in patches:
            model = each(model)
        return model

    return patch


class Said(logging.Handler):
    """A log of messages, by logger."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append((record.name, record.getMessage()))


def logged(use: Callable[[], Any]) -> tuple[Any, list[str]]:
    """Give what our own loggers say meanwhile."""
    handler = Said()
    logging.getLogger().addHandler(handler)
    try:
        found = use()
    finally:
        logging.getLogger().removeHandler(handler)
    return found, [text for name, text in handler.lines if name.startswith("comfy_gpu_offload.comfyui")]


def compared(pair: Pair, this: Any, patch: Patch) -> dict[str, Any]:
    """Return whether it is equal each way, whether it matters, and what is logged of it."""
    plain = sampled(pair.stock, this)
    try:
        (result, same), said = logged(lambda: three_ways(pair, this, patch))
    except OffloadError as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {
        **same,
        "mattered": not torch.equal(result, plain),
        "finite": bool(result.isfinite().all()),
        "said": said,
    }


def without_tensors() -> dict[str, Any]:
    """Compare patches that scale a weight and add nothing, as the Attention Multiply nodes put them."""
    self_ = executed(multiplying.UNetSelfAttentionMultiply, q=1.3, k=0.8, v=1.1, out=0.9)
    cross = executed(multiplying.UNetCrossAttentionMultiply, q=0.7, k=1.2, v=0.9, out=1.4)
    parts = {"self_structural": 1.2, "self_temporal": 0.5, "cross_structural": 0.8, "cross_temporal": 1.5}
    temporal = executed(multiplying.UNetTemporalAttentionMultiply, **parts)
    lora = with_lora(_lora("input_blocks.1.0.in_layers.2", (320, 4), (4, 320 * 9)))
    pair, this = Pair.of(UNET), case(UNET, steps=2)
    patches = {"self": self_, "cross": cross, "temporal": temporal, "all, and a LoRA": stacked(lora, self_, cross)}
    found = {name: compared(pair, this, patch) for name, patch in patches.items()}
    key = f"diffusion_model.{_LAYER}.weight"
    mmdit, other, this = Pair.of(MMDIT), Pair.of(_OTHERS), case(MMDIT, steps=2)
    scaled = patched_by({key: (None,)}, 0.0, 0.25)
    part = patched_by({(key, (0, 32, 64)): ("diff", (None,))}, 0.0, -1.0)
    found["of a part"] = compared(mmdit, this, part)
    found["in a merge"] = compared(mmdit, this, lambda model: merged(model, scaled(side_of(model, other))))
    return found


def _lora(layer: str, up: tuple[int, ...], down: tuple[int, ...], seed: int = 61, **further: Any) -> Weights:
    named = {"lora_up.weight": noise(up, seed) * 0.2, "lora_down.weight": noise(down, seed + 1) * 0.2, **further}
    return {f"diffusion_model.{layer}.{name}": tensor for name, tensor in named.items()}


def _layer(**named: torch.Tensor) -> Weights:
    return {f"diffusion_model.{_LAYER}.{name}": tensor for name, tensor in named.items()}


# Of each kind one layer that does not fit (128, 128), and that ComfyUI goes on without.
MISFITS: dict[str, Weights] = {
    "lora": _lora(_LAYER, (96, 4), (4, 64)),
    "lora of other ranks": _lora(_LAYER, (128, 4), (3, 128)),
    "dora": _lora(_LAYER, (128, 4), (4, 128), dora_scale=noise((96, 1), 3) + 1),
    "loha": _layer(
        hada_w1_a=noise((96, 4), 4),
        hada_w1_b=noise((4, 64), 5),
        hada_w2_a=noise((96, 4), 6),
        hada_w2_b=noise((4, 64), 7),
    ),
    "lokr": _layer(lokr_w1=noise((4, 4), 8), lokr_w2=noise((24, 24), 9)),
    "glora": {
        f"diffusion_model.{_LAYER}.{name}.weight": noise(shape, 10)
        for name, shape in {"a1": (96, 4), "a2": (4, 96), "b1": (96, 4), "b2": (4, 96)}.items()
    },
    "oft": _layer(oft_blocks=noise((12, 8, 8), 11)),
    "boft": _layer(oft_blocks=noise((2, 12, 8, 8), 12), alpha=torch.tensor(0.1)),
    "boft without alpha": _layer(oft_blocks=noise((2, 16, 8, 8), 13)),
    "diff": _layer(diff=noise((96, 64), 14)),
    "bias": _layer(diff_b=noise((96,), 15)),
}
_FITTING = _lora("joint_blocks.1.x_block.mlp.fc1", (512, 4), (4, 128), seed=71)


def with_misfits() -> dict[str, Any]:
    """Compare files with one layer that does not fit, as ComfyUI treats them here, with the worker."""
    pair, this = Pair.of(MMDIT), case(MMDIT, steps=2)
    found = {name: compared(pair, this, with_lora(_FITTING | each)) for name, each in MISFITS.items()}
    key = f"diffusion_model.{_LAYER}.weight"
    wrong, right = ("diff", (noise((96, 64), 16),)), ("diff", (noise((64, 128), 17),))
    further = {
        # It is scaled all the same, and so is the part of it that a patch is for.
        "scaled": patched_by({key: wrong}, 0.5, 0.25),
        "a part": patched_by({(key, (0, 64, 64)): wrong}, 0.5, 0.5),
        "before others": stacked(patched_by({key: wrong}, 0.5), patched_by({(key, (0, 64, 64)): right}, 0.5)),
    }
    fitting = with_lora(_FITTING)
    found |= {name: compared(pair, this, stacked(fitting, patch)) for name, patch in further.items()}
    hooked = replace(
        this,
        positive=[sides.condition(MMDIT, 10, hooks=hooks.create_hook_lora(_FITTING | MISFITS["lora"], 0.8, 0.0))],
    )
    found["in a hook"] = hooked_alike(pair, hooked)
    other = Pair.of(_OTHERS)
    second = with_lora(_FITTING | MISFITS["lora"])
    found["in a merge"] = compared(pair, this, lambda model: merged(model, second(side_of(model, other))))
    return found


def hooked_alike(pair: Pair, this: Any) -> dict[str, Any]:
    """Compare the same in a run with hooks, which goes each step."""
    plain = sampled(pair.stock, replace(this, positive=[sides.condition(MMDIT, 10)]))
    result = sampled(pair.stock, this)
    remote, said = logged(lambda: sampled(pair.remote, this))
    same = torch.equal(result, remote)
    return {
        "each step": same,
        "whole loop": same,
        "mattered": not torch.equal(result, plain),
        "finite": True,
        "said": said,
    }


def refusals() -> dict[str, str]:
    """Return the errors of files that do not fit at all, and of those that ComfyUI itself fails on."""
    key = f"diffusion_model.{_LAYER}.weight"
    changes = {
        "nothing fits": with_lora(MISFITS["lora"]),
        "one of two files": stacked(with_lora(_FITTING), with_lora(MISFITS["loha"])),
        "nothing with a strength": patched_by({key: (None,)}, 0.5),
        "set": patched_by({key: ("set", (noise((96, 64), 18),))}, 1.0),
    }
    found = {}
    for name, change in changes.items():
        pair = Pair.of(MMDIT)
        found[name] = _said(lambda change=change, pair=pair: sampled(change(pair.remote), case(MMDIT, steps=1)))
    return found


def _said(use: Callable[[], Any]) -> str:
    try:
        use()
    except OffloadError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def not_loaded() -> dict[str, Any]:
    """Return what is logged of a LoRA none of whose keys the model has."""
    pair, this = Pair.of(MMDIT), case(MMDIT, steps=1)
    strangers = {f"lora_unet_somewhere.{name}": tensor for name, tensor in _lora("x", (8, 4), (4, 8)).items()}
    return compared(pair, this, with_lora(strangers))


def widened() -> dict[str, Any]:
    """Compare a LoRA that gives a model's input layer more channels, which ComfyUI counts before each call."""
    pair, plain = Pair.of(WAN), case(WAN, steps=2)
    lora = _lora("patch_embedding", (128, 4), (4, 36 * 4), reshape_weight=torch.tensor([128, 36, 1, 2, 2]))
    wide = with_lora(lora)
    picture = {"concat_latent_image": noise((1, 16, 2, 4, 4), 62), "concat_mask": torch.ones(1, 1, 2, 4, 4)}
    this = replace(
        plain, positive=[sides.condition(WAN, 10, **picture)], negative=[sides.condition(WAN, 20, **picture)]
    )
    found = {"a LoRA": compared(pair, this, wide)}
    shapes = {}
    for name, model in {"local": pair.stock, "remote": pair.remote}.items():
        patched = wide(model)
        seen = []
        for each in (patched, model, patched):
            sampled(each, this if each is patched else plain)
            network = each.model.diffusion_model
            by_key = each.model.state_dict()["diffusion_model.patch_embedding.weight"]
            seen.append([list(network.patch_embedding.weight.shape), list(by_key.shape)])
        shapes[name] = seen
    # Made larger, and nothing added.
    grown = _lora("patch_embedding", (96, 4), (4, 36 * 4), reshape_weight=torch.tensor([128, 36, 1, 2, 2]))
    fitting = _lora("blocks.0.self_attn.q", (128, 4), (4, 128), seed=63)
    found["a LoRA that does not fit"] = compared(pair, this, with_lora(grown | fitting))
    second = Pair.of(replace(WAN, file="wan-other.safetensors"))
    found["merged with another"] = compared(pair, this, lambda model: wide(merged(model, side_of(model, second))))
    found["after it"] = compared(pair, plain, lambda model: model)
    return {"runs": found, "shapes": shapes}


if __name__ == "__main__":
    facts = {
        "without tensors": without_tensors(),
        "with misfits": with_misfits(),
        "refusals": refusals(),
        "not loaded": not_loaded(),
        "widened": widened(),
    }
    print(json.dumps(facts), flush=True)
    # As in run.py.
    os._exit(0)
