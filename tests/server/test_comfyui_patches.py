"""Patch sets that are wrong, without a ComfyUI: each is refused for what is wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from comfy_gpu_offload.io.digests import digest
from comfy_gpu_offload.server.backends.base import PatchSet
from comfy_gpu_offload.server.backends.comfyui_patches import NotDataError, build

KEY = "diffusion_model.layer.weight"
SHAPES = {KEY: (8, 4)}
TENSORS = {name: tensor for tensor in (torch.ones(8, 2), torch.ones(2, 4), torch.ones(8, 4), torch.ones(8, 4).int())
           for name in (digest(tensor),)}  # fmt: skip
UP, DOWN, WHOLE, INTEGERS = TENSORS
DIFF = [0, "diff", [WHOLE, False], None, None]
LORA = [0, "LoRAAdapter", [UP, DOWN, 2.0, None, None, None], None, None]


def built(template: Any) -> dict[str, list[tuple[Any, ...]]]:
    return build(PatchSet(bytes(32), template, ((0.5, 1.0),), TENSORS), SHAPES)


def test_what_is_right_becomes_a_patch() -> None:
    (patch,) = built({KEY: [DIFF]})[KEY]
    assert patch[0] == 0.5
    assert torch.equal(patch[1][1][0], TENSORS[WHOLE])


def changed(patch: list[Any], position: int, value: Any) -> dict[str, Any]:
    return {KEY: [[*patch[:position], value, *patch[position + 1 :]]]}


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ([], "a patch set is a dict"),
        ({1: [DIFF]}, "keys of a model"),
        ({KEY: DIFF[0]}, "keys of a model"),
        ({KEY: [DIFF[:4]]}, "not of its form"),
        ({KEY: ["diff"]}, "not of its form"),
        (changed(DIFF, 0, 1), "without a strength"),
        (changed(DIFF, 0, True), "without a strength"),
        (changed(DIFF, 1, "diffuse"), "the kind 'diffuse', which is not known"),
        (changed(DIFF, 1, 7), "which is not known"),
        (changed(DIFF, 2, None), "which is not known"),
        (changed(DIFF, 2, [bytes(32), False]), "not uploaded"),
        (changed(DIFF, 2, [b"short", False]), "not uploaded"),
        (changed(DIFF, 2, [WHOLE]), "not of their form"),
        (changed(DIFF, 2, [WHOLE, 1]), "not of their form"),
        (changed(DIFF, 2, [None, False]), "not of their form"),
        (changed(DIFF, 2, [INTEGERS, False]), "not of their form"),
        (changed(DIFF, 2, [UP, False]), "do not fit"),
        (changed(DIFF, 3, [0, 4, 8]), "outside their weight"),
        (changed(DIFF, 3, [2, 0, 1]), "outside their weight"),
        (changed(DIFF, 4, "os.system"), "function that is not known"),
        (changed(LORA, 2, [DOWN, UP, 2.0, None, None, None]), "do not fit"),
        (changed(LORA, 2, [UP, DOWN, float("nan"), None, None, None]), "not of their form"),
        (changed(LORA, 2, [UP, DOWN, 2.0, None, None, [1 << 40, 1]]), "not of their form"),
        ({"diffusion_model.other.weight": [DIFF]}, "model"),
    ],
)
def test_what_is_wrong_is_refused_for_what_is_wrong(template: Any, said: str) -> None:
    with pytest.raises(NotDataError, match=said):
        built(template)
