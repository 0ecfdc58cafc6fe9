"""A backend that merges a second model into the one that is called: short of memory, and with wrong merges."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import comfy.sd
import torch
from behaviour import forward_once
from comfy_extras.nodes_model_merging import ModelMergeSimple
from sessions import Pair, sampled, three_ways
from sides import BACKEND, MMDIT, SIDES, WAN, case, noise

from comfy_gpu_offload.backends.base import BackendError, PatchSet
from comfy_gpu_offload.errors import OffloadError
from comfy_gpu_offload.io.digests import digest
from comfy_gpu_offload.protocol.messages import ModelRef

_OTHER = replace(MMDIT, file="mmdit-other.safetensors")
_OTHER_WAN = replace(WAN, file="wan-other.safetensors")
_FIRST_REF, _OTHER_REF = ModelRef(name=MMDIT.file), ModelRef(name=_OTHER.file)


def _layer() -> tuple[str, torch.Size]:
    model = SIDES.stock(MMDIT).model
    return next((key, value.shape) for key, value in model.state_dict().items() if value.dim() == 2)


def _set(name: str, model: list[Any], *patches: Any, tensors: tuple[torch.Tensor, ...] = ()) -> PatchSet:
    key, _ = _layer()
    template = {"models": [model], key: [[0, "model", [0, None, list(patches)], None, None]]}
    return PatchSet(
        digest(torch.tensor(list(name.encode()))), template, ((0.4, 0.6),), {digest(t): t for t in tensors}
    )


def _right() -> PatchSet:
    described = SIDES.remote(_OTHER).remote.description
    return _set("right", [described.ref.name, described.ref.weight_dtype, described.fingerprint])


def short_of_memory() -> dict[str, Any]:
    """Compare merged calls while the second model leaves memory, or has no room there."""
    plain, merged = forward_once(), forward_once(_right())
    loaded, _ = BACKEND.pool.load(_OTHER_REF)
    weight = weakref.ref(loaded.patcher.model.diffusion_model.x_embedder.proj.weight)
    del loaded
    BACKEND.pool.residents.drop(_OTHER_REF)
    gc.collect()
    freed = weight() is None
    again = forward_once(_right())
    BACKEND.pool.residents.drop(_OTHER_REF)
    # No room for two: neither may leave while both are needed, and then the next model has the room.
    BACKEND.pool.residents._budget_bytes = 1
    try:
        crowded = forward_once(_right())
        held = [BACKEND.pool.residents.get(ref) is not None for ref in (_FIRST_REF, _OTHER_REF)]
        BACKEND.pool.load(ModelRef(name="wan.safetensors"))
        left = len(BACKEND.pool.residents)
    finally:
        BACKEND.pool.residents._budget_bytes = 0
    return {
        "mattered": not torch.equal(plain, merged),
        "freed": freed,
        "same when loaded again": torch.equal(merged, again),
        "same without room": torch.equal(merged, crowded),
        "held": held,
        "left": left,
        "same unmerged": torch.equal(plain, forward_once()),
    }


def bad_merges() -> dict[str, Any]:
    """Return the error of each, and whether calls after it give the same as calls before it."""
    right = _right().template["models"][0]
    wrong = noise((3, 3), 82)
    before = forward_once()
    sets = {
        "unknown model": _set("unknown", ["no-such.safetensors", *right[1:]]),
        "outside": _set("outside", ["../loras/kind-lora.safetensors", *right[1:]]),
        "a ControlNet": _set("net", ["controlnet:edges.safetensors", *right[1:]]),
        "unknown weight dtype": _set("dtype", [right[0], "int2", right[2]]),
        "wrong fingerprint": _set("changed", [*right[:2], "0" * 32]),
        "another architecture": _set("wan", [*_described("wan.safetensors")]),
        "wrong shapes": _set("shapes", right, [0, "diff", [digest(wrong), False], None, None], tensors=(wrong,)),
        "missing tensor": _set("missing", right, [0, "diff", [bytes(32), False], None, None]),
        "wrong types": _set("types", right, [0, "model", {"a": 1}, None, None]),
    }
    said, same = {}, {}
    for name, given in sets.items():
        try:
            forward_once(given)
            said[name] = "nothing"
        except BackendError as error:
            said[name] = f"{type(error).__name__}: {error}"
        same[name] = torch.equal(before, forward_once())
    return {"said": said, "same": same}


def quantised() -> dict[str, Any]:
    """Compare a model of weights in fp8 with scales: alone, under a LoRA, and on either side of a merge."""
    pair, other = Pair.of(replace(WAN, file="wan-quantised.safetensors")), Pair.of(_OTHER_WAN)
    this = case(WAN, steps=2)
    plain, alone = three_ways(pair, this, lambda model: model)
    found: dict[str, Any] = {
        "alone": {**alone, "mattered": not torch.equal(plain, sampled(Pair.of(WAN).stock, this))}
    }
    patches = {"with a LoRA": _with_lora, "merged into": lambda model: merged(model, side_of(model, other))}
    for name, patch in patches.items():
        result, same = three_ways(pair, this, patch)
        found[name] = {**same, "mattered": not torch.allclose(result, plain, atol=1e-2)}
    here = _said(lambda: sampled(merged(other.stock, pair.stock), this))
    there = _said(lambda: sampled(merged(other.remote, pair.remote), this))
    found["merged into another"] = {"here": here, "at the worker": there}
    if here == "nothing":
        _, same = three_ways(other, this, lambda model: merged(model, side_of(model, pair)))
        found["merged into another"].update(same)
    found["first again"] = torch.equal(plain, sampled(pair.remote, this))
    return found


def _with_lora(model: Any) -> Any:
    layer = "diffusion_model.blocks.0.self_attn.q"
    weights = {f"{layer}.lora_up.weight": noise((128, 2), 91), f"{layer}.lora_down.weight": noise((2, 128), 92)}
    return comfy.sd.load_lora_for_models(model, None, weights, 1.0, 0)[0]


def merged(first: Any, second: Any) -> Any:
    return ModelMergeSimple().merge(first, second, 0.4)[0]


def side_of(model: Any, pair: Pair) -> Any:
    return pair.remote if hasattr(model, "remote") else pair.stock


def _said(use: Callable[[], Any]) -> str:
    try:
        use()
    except (OffloadError, AttributeError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def _described(name: str) -> tuple[str, str, str]:
    ref = ModelRef(name=name)
    return name, ref.weight_dtype, BACKEND.describe(ref).description.fingerprint
