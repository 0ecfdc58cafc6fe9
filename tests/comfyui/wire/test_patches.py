"""The wire form of weight patches: written, read, and refused for each fault, without a ComfyUI."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from comfy_gpu_offload.backends.base import BadPatchesError, PatchSet
from comfy_gpu_offload.comfyui.wire.patch_reader import build_patches, merged_models
from comfy_gpu_offload.comfyui.wire.patch_shapes import NotDataError
from comfy_gpu_offload.comfyui.wire.patch_writer import ModelWeight, examine_patches, write_patches
from comfy_gpu_offload.io.digests import digest
from comfy_gpu_offload.protocol.messages import ModelRef

KEY = "diffusion_model.layer.weight"
SHAPES = {KEY: (8, 4)}
TENSORS = {name: tensor for tensor in (torch.ones(8, 2), torch.ones(2, 4), torch.ones(8, 4), torch.ones(8, 4).int())
           for name in (digest(tensor),)}  # fmt: skip
UP, DOWN, WHOLE, INTEGERS = TENSORS
DIFF = [0, "diff", [WHOLE, False], None, None]
LORA = [0, "LoRAAdapter", [UP, DOWN, 2.0, None, None, None], None, None]
SECOND = {KEY: (torch.full((8, 4), 2.0), lambda weight, **_: weight), "diffusion_model.odd": (torch.ones(3), None)}
MODEL = ["second.safetensors", "default", "f" * 32]
MERGE = [0, "model", [0, None, [DIFF]], None, None]


def patch_set(template: Any, strengths: tuple[tuple[float, float], ...] = ((0.5, 1.0),)) -> PatchSet:
    return PatchSet(bytes(32), template, strengths, TENSORS)


def built(template: Any) -> dict[str, list[tuple[Any, ...]]]:
    return build_patches(patch_set(template), SHAPES, [SECOND])


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
        ({KEY: [DIFF[:4]]}, "malformed patch"),
        ({KEY: ["diff"]}, "malformed patch"),
        (changed(DIFF, 0, 1), "without a strength"),
        (changed(DIFF, 0, True), "without a strength"),
        (changed(DIFF, 1, "diffuse"), "the kind 'diffuse', which is not known"),
        (changed(DIFF, 1, 7), "which is not known"),
        (changed(DIFF, 2, None), "which is not known"),
        (changed(DIFF, 2, [bytes(32), False]), "not uploaded"),
        (changed(DIFF, 2, [b"short", False]), "not uploaded"),
        (changed(DIFF, 2, [WHOLE]), "values are malformed"),
        (changed(DIFF, 2, [WHOLE, 1]), "values are malformed"),
        (changed(DIFF, 2, [None, False]), "strength is not 0"),
        (changed(DIFF, 2, [None, True]), "values are malformed"),
        (changed(DIFF, 2, [None, None]), "values are malformed"),
        ({KEY: [[0, "pad", [[8, 6]], None, None]]}, "strength is not 0"),
        ({KEY: [[0, "pad", [None], None, None]]}, "values are malformed"),
        ({KEY: [[0, "pad", [WHOLE], None, None]]}, "values are malformed"),
        ({KEY: [[0, "pad", [[8, 0]], None, None]]}, "values are malformed"),
        (changed(DIFF, 2, [INTEGERS, False]), "values are malformed"),
        (changed(DIFF, 2, [UP, False]), "do not fit"),
        (changed(DIFF, 3, [0, 4, 8]), "outside their weight"),
        (changed(DIFF, 3, [2, 0, 1]), "outside their weight"),
        (changed(DIFF, 4, "os.system"), "function that is not known"),
        (changed(LORA, 2, [DOWN, UP, 2.0, None, None, None]), "do not fit"),
        (changed(LORA, 2, [UP, DOWN, float("nan"), None, None, None]), "values are malformed"),
        (changed(LORA, 2, [UP, DOWN, 2.0, None, None, [1 << 40, 1]]), "values are malformed"),
        ({"diffusion_model.other.weight": [DIFF]}, "model"),
        (changed(MERGE, 2, [0, None]), "malformed model merge"),
        (changed(MERGE, 2, [0, 7, []]), "malformed model merge"),
        (changed(MERGE, 2, [1, None, []]), "model that is not listed"),
        (changed(MERGE, 2, [-1, None, []]), "model that is not listed"),
        (changed(MERGE, 2, [False, None, []]), "model that is not listed"),
        (changed(MERGE, 2, ["0", None, []]), "model that is not listed"),
        (changed(MERGE, 2, [0, "diffusion_model.none", []]), "does not have"),
        (changed(MERGE, 2, [0, "diffusion_model.odd", [DIFF]]), "do not fit"),
        (changed(MERGE, 2, [0, None, {}]), "a list for each"),
        (changed(MERGE, 2, [0, None, [LORA[:4]]]), "malformed patch"),
        (changed(MERGE, 3, [0, 4, 8]), "outside their weight"),
    ],
)
def test_what_is_wrong_is_refused_for_what_is_wrong(template: Any, said: str) -> None:
    with pytest.raises(NotDataError, match=said):
        built(template)


def nested(depth: int) -> list[Any]:
    return MERGE if depth == 1 else [0, "model", [0, None, [nested(depth - 1)]], None, None]


def test_merges_of_merges_are_bounded() -> None:
    assert built({KEY: [nested(8)]})
    with pytest.raises(NotDataError, match="over 8 deep"):
        built({KEY: [nested(9)]})


def test_a_merge_is_the_second_models_weight_and_the_patches_on_it() -> None:
    (patch,) = built({"models": [MODEL], KEY: [MERGE]})[KEY]
    weight, (strength, (kind, (tensor,)), *_) = patch[1]
    assert weight is SECOND[KEY]
    assert (strength, kind) == (0.5, "diff")
    assert torch.equal(tensor, TENSORS[WHOLE])


@pytest.mark.parametrize(
    "models",
    [None, {}, "second", [MODEL[:2]], [MODEL[0]], [[*MODEL[:2], 7]], [["x" * 9999, *MODEL[1:]]], [MODEL] * 17],
)
def test_a_list_of_models_that_is_none_is_refused(models: Any) -> None:
    with pytest.raises(BadPatchesError, match="refused"):
        merged_models(patch_set({"models": models, KEY: [MERGE]}))


def test_the_models_to_merge_are_those_listed() -> None:
    assert merged_models(patch_set({KEY: [DIFF]})) == []
    assert merged_models(patch_set({"models": [MODEL]})) == [(ModelRef(name=MODEL[0]), MODEL[2])]


def test_a_module_of_several_files_is_merged_by_all_of_them() -> None:
    further = {"files": ["clip_g.safetensors"], "options": [["type", "sdxl"]]}
    ref = ModelRef(name="text_encoder:l", files=("clip_g.safetensors",), options=(("type", "sdxl"),))
    weight = ModelWeight(ref, "f" * 32, "layer.weight", (8, 4))
    merge = {"layer.weight": [(0.5, [("weight", None)], 1.0, None, None)]}
    data = write_patches(merge, {"layer.weight": (8, 4)}, digest, lambda _: weight, prefix="")
    assert data.template["models"] == [["text_encoder:l", "default", "f" * 32, further]]
    assert merged_models(patch_set(data.template)) == [(ref, "f" * 32)]


@pytest.mark.parametrize("further", [{"name": "x"}, [], {"files": "x"}, {"options": [["type"]]}, {"files": [3]}])
def test_further_fields_of_a_model_to_merge_are_checked(further: Any) -> None:
    with pytest.raises(BadPatchesError, match="refused"):
        merged_models(patch_set({"models": [[*MODEL, further]]}))


SECOND_MODEL = ModelRef(name="second.safetensors")
THIRD_MODEL = ModelRef(name="third.safetensors", weight_dtype="fp8_e5m2")
# What write_patches is given: ComfyUI's own form of a merge of merges, with strings for weights.
STANDS_FOR = {
    "here": ModelWeight(SECOND_MODEL, "f" * 32, KEY, (8, 4)),
    "elsewhere": ModelWeight(THIRD_MODEL, "e" * 32, KEY, (8, 4)),
    "smaller": ModelWeight(SECOND_MODEL, "f" * 32, "diffusion_model.odd", (3,)),
}


def stands_for(weight: Any) -> ModelWeight:
    if weight not in STANDS_FOR:
        raise NotDataError("a merge with what is local")
    return STANDS_FOR[weight]


def merge_of(weight: str, *patches: Any) -> tuple[Any, ...]:
    return (0.5, [(weight, None), *patches], 0.25, None, None)


def test_a_merge_of_merges_there_and_back() -> None:
    change = (0.5, ("diff", (TENSORS[WHOLE],)), 1.0, None, None)
    patches = {KEY: [change, merge_of("here", change, merge_of("elsewhere", change)), merge_of("smaller")]}
    data = write_patches(patches, SHAPES, digest, stands_for)
    assert data.template["models"] == [
        ["second.safetensors", "default", "f" * 32],
        ["third.safetensors", "fp8_e5m2", "e" * 32],
    ]
    assert (list(data.tensors), data.strengths, data.unlike) == ([WHOLE], [(0.5, 1.0), (0.5, 0.25)], 1)
    third = {KEY: (torch.full((8, 4), 3.0), lambda weight, **_: weight)}
    made = build_patches(patch_set(data.template, tuple(data.strengths)), SHAPES, [SECOND, third])
    plain, (strength, (weight, *further), strength_model, *_), other = made[KEY]
    assert plain[0] == 0.5
    assert (strength, strength_model, weight) == (0.5, 0.25, SECOND[KEY])
    assert further[1][1][0] is third[KEY]
    assert other[1] == [SECOND["diffusion_model.odd"]]


def test_what_of_merges_cannot_travel_is_counted_by_layer() -> None:
    shapes = {f"diffusion_model.{number}": (8, 4) for number in range(3)}
    patches = {key: [merge_of("local")] for key in shapes}
    ((error, count),) = examine_patches(patches, shapes, stands_for).refused
    assert (str(error), count) == ("a merge with what is local", 3)


MISFIT = ("diff", (TENSORS[UP],))


@pytest.mark.parametrize(
    ("offset", "left", "kind", "values", "shape"),
    [
        (None, (8, 4), "diff", [None, False], None),
        # Made larger before ComfyUI failed with it, and kept so where it is no part.
        (None, (8, 6), "pad", [[8, 6]], (8, 6)),
        ((0, 0, 2), (8, 6), "diff", [None, False], None),
    ],
)
def test_in_place_of_what_comfyui_passes_over_travels_what_adds_nothing(
    offset: Any, left: Any, kind: str, values: list[Any], shape: Any
) -> None:
    right = (0.5, ("diff", (TENSORS[WHOLE],)), 1.0, None, None)
    patches = {KEY: [(0.7, MISFIT, 0.25, offset, None)], "diffusion_model.other": [right]}
    shapes = {**SHAPES, "diffusion_model.other": (8, 4)}
    data = write_patches(patches, shapes, digest, stands_for, lambda *_: left)
    ((position, *entry),) = data.template[KEY]
    assert data.strengths[position] == (0.0, 0.25)
    assert entry == [kind, values, None if offset is None else list(offset), None]
    assert data.grown == ({} if shape is None else {KEY: shape})
    assert [(each.key, each.value) for each in data.left_out] == [(KEY, MISFIT)]
    assert UP not in data.tensors
    (patch, *_), _ = build_patches(patch_set(data.template, tuple(data.strengths)), shapes).values()
    assert (patch[0], patch[2]) == (0.0, 0.25)
    tensor = patch[1][1][0]
    assert tensor is None or tuple(tensor.shape) == shape


def test_what_comfyui_does_not_pass_over_is_refused() -> None:
    found = examine_patches({KEY: [(0.7, MISFIT, 1.0, None, None)]}, SHAPES, stands_for)
    ((error, count),) = found.refused
    assert ("do not fit" in str(error), count, found.left_out) == (True, 1, [])


def test_a_patch_without_a_tensor_there_and_back() -> None:
    patches = {KEY: [(0.0, (None,), 0.25, None, None), (0, ("diff", (None,)), 2, (0, 0, 4), None)]}
    data = write_patches(patches, SHAPES, digest, stands_for)
    assert data.tensors == {}
    made = build_patches(patch_set(data.template, tuple(data.strengths)), SHAPES)[KEY]
    nothing = ("diff", (None,))
    assert made == [(0.0, nothing, 0.25, None, None), (0.0, nothing, 2.0, (0, 0, 4), None)]
    found = examine_patches({KEY: [(0.5, (None,), 1.0, None, None)]}, SHAPES, stands_for)
    assert "strength is not 0" in str(found.refused[0][0])
