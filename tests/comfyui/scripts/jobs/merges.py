"""A backend that merges a second model into the one that is called: short of memory, and told what is wrong."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from typing import Any

import torch
from behaviour import forward_once
from sides import BACKEND, MMDIT, SIDES, noise

from comfy_gpu_offload.io.digests import digest
from comfy_gpu_offload.protocol.messages import ModelRef
from comfy_gpu_offload.server.backends.base import BackendError, PatchSet

_OTHER = replace(MMDIT, file="mmdit-other.safetensors")
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
    """Merged calls while the second model leaves memory, or has no room there."""
    plain, merged = forward_once(), forward_once(_right())
    loaded, _ = BACKEND._load(_OTHER_REF)
    weight = weakref.ref(loaded.patcher.model.diffusion_model.x_embedder.proj.weight)
    del loaded
    BACKEND._residents.drop(_OTHER_REF)
    gc.collect()
    freed = weight() is None
    again = forward_once(_right())
    BACKEND._residents.drop(_OTHER_REF)
    # No room for two: neither may leave while both are needed, and then the next model has the room.
    BACKEND._residents._budget_bytes = 1
    try:
        crowded = forward_once(_right())
        held = [BACKEND._residents.get(ref) is not None for ref in (_FIRST_REF, _OTHER_REF)]
        BACKEND._load(ModelRef(name="wan.safetensors"))
        left = len(BACKEND._residents)
    finally:
        BACKEND._residents._budget_bytes = 0
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
    """What each is refused for, and whether calls after it give what calls before it gave."""
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


def _described(name: str) -> tuple[str, str, str]:
    ref = ModelRef(name=name)
    return name, ref.weight_dtype, BACKEND.describe(ref).description.fingerprint
