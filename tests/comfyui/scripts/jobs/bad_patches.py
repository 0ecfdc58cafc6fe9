"""A backend that is called with wrong weight patches: its errors, and the results of right calls afterwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from behaviour import forward_once
from sides import MMDIT, SIDES, noise

from comfy_gpu_offload.backends.base import BackendError, PatchSet
from comfy_gpu_offload.io.digests import digest


def _patched(call: Callable[..., torch.Tensor], kind: str, values: list[Any], tensors: list[torch.Tensor]) -> str:
    key, _ = _weight()
    named = {digest(tensor): tensor for tensor in tensors}
    template = {key: [[0, kind, [*named, *values], None, None]]}
    name = digest(torch.tensor(list(f"{kind}{values}{len(tensors)}".encode())))
    try:
        call(patches=PatchSet(name, template, ((1.0, 1.0),), named))
    except BackendError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def _weight() -> tuple[str, torch.Size]:
    model = SIDES.stock(MMDIT).model
    return next((key, value.shape) for key, value in model.state_dict().items() if value.dim() == 2)


def bad_patches() -> dict[str, Any]:
    """Return the error of each set, and whether calls after it give the same as calls before it."""
    _, shape = _weight()
    before = forward_once()
    right, wrong = noise(tuple(shape), 80), noise((shape[0] + 1, shape[1]), 81)
    sets = {
        "wrong shapes": ("diff", [False], [wrong]),
        "unknown kind": ("Popen", [], [right]),
        "missing tensor": ("diff", [bytes(32), False], []),
        "not numbers": ("diff", [False], [torch.zeros(tuple(shape), dtype=torch.int64)]),
    }
    said, same = {}, {}
    for name, given in sets.items():
        said[name] = _patched(forward_once, *given)
        same[name] = torch.equal(before, forward_once())
    # Loaded, it makes the weight larger, which the network cannot use; the next set is for the weight as it was.
    grown = _patched(forward_once, "diff", [True], [noise((shape[0], shape[1] + 2), 82)])
    fine = _patched(forward_once, "diff", [False], [right])
    return {
        "said": said,
        "same": same,
        "a larger one": grown,
        "a right one": fine,
        "same in the end": torch.equal(before, forward_once()),
    }
