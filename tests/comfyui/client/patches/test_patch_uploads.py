"""Weight patches become data once, those that do not fit are left out and reported, and the rest is refused."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tests.comfyui.client.conftest import Sides, sampled
from tests.support.comfy_stand_in.fixtures import StandIn

from comfy_gpu_offload.errors import UnsupportedPatchError

WEIGHT, BIAS = "diffusion_model.layer.weight", "diffusion_model.layer.bias"


def diff(*shape: int, pads: bool = False) -> Any:
    content: tuple[Any, ...] = (torch.full(shape, 0.5), {"pad_weight": True}) if pads else (torch.full(shape, 0.5),)
    return "diff", content


def lora(rows: int = 4, columns: int = 4, alpha: float | None = 2.0) -> Any:
    import comfy.weight_adapter

    tensors = torch.full((rows, 2), 0.5), torch.full((2, columns), 0.25)
    return comfy.weight_adapter.LoRAAdapter({"a"}, (*tensors, alpha, None, None, None))


@pytest.fixture
def shown(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Give the lines that nodes show."""
    from comfy_gpu_offload.comfyui.client import node_lines

    lines: list[str] = []
    monkeypatch.setattr(node_lines, "show", lines.append)
    return lines


@pytest.fixture
def running(comfy_stand_in: StandIn) -> Iterator[Any]:
    """Have a node of a prompt run that names a LoRA file, and give the node."""
    import comfy_execution.utils as execution

    import server
    from comfy_gpu_offload.comfyui.client import running_node

    comfy_stand_in.write("loras", "style.safetensors", {"a": torch.ones(1)})
    running_node._patch_source.cache_clear()
    instance = server.PromptServer()
    node = {"class_type": "LoraLoader", "inputs": {"lora": {"on": True, "file": "style.safetensors"}}}
    instance.prompt_queue.currently_running = {0: (0, "one", {"7": node}, {}, [])}
    server.PromptServer.instance, execution.present = instance, execution.ExecutionContext("one", "7")
    yield node
    server.PromptServer.instance, execution.present = None, None
    running_node._patch_source.cache_clear()


@pytest.mark.parametrize("strength", [1.0, 0.3, 0.0])
def test_patches_of_each_kind_give_what_they_give_here(sides: Sides, strength: float) -> None:
    for value in (diff(4, 4), lora(), lora(alpha=None)):
        assert sides.same(lambda patcher, value=value: patcher.add_patches({WEIGHT: value}, strength))
    assert sides.same(lambda patcher: patcher.add_patches({BIAS: ("set", (torch.ones(1),))}, 1.0))


def test_a_part_of_a_weight_and_a_stack(sides: Sides) -> None:
    def stack(patcher: Any) -> None:
        patcher.add_patches({(WEIGHT, (0, 1, 2)): diff(2, 4)}, 0.5)
        patcher.add_patches({WEIGHT: lora(), BIAS: diff(4)}, 0.25, 0.5)

    assert sides.same(stack)


def test_a_tensor_is_hashed_once_and_again_when_it_has_changed(sides: Sides, monkeypatch: Any) -> None:
    from comfy_gpu_offload.comfyui.client.patches import patch_uploads

    hashed = []
    ordinary = patch_uploads.digest
    monkeypatch.setattr(patch_uploads, "digest", lambda tensor: hashed.append(tensor) or ordinary(tensor))
    tensor = torch.ones(4, 4)
    first = patch_uploads._digest(tensor)
    assert (patch_uploads._digest(tensor), len(hashed)) == (first, 1)
    tensor.mul_(2)
    assert patch_uploads._digest(tensor) != first
    assert len(hashed) == 2
    assert patch_uploads._digest(torch.full((4, 4), 2.0)) == patch_uploads._digest(tensor)


def test_an_upload_is_shown_and_a_second_run_uploads_nothing(sides: Sides) -> None:
    import comfy.utils

    comfy.utils.ProgressBar.bars.clear()
    patched = sides.remote.clone()
    patched.add_patches({WEIGHT: diff(4, 4)})
    sampled(patched)
    (bar,) = comfy.utils.ProgressBar.bars
    assert bar.total == 64
    assert bar.shown[-1][:2] == (64, 64)
    sampled(patched)
    assert len(comfy.utils.ProgressBar.bars) == 1


def test_layers_that_do_not_fit_are_left_out_and_reported_by_file(
    sides: Sides, shown: list[str], caplog: Any, running: Any
) -> None:
    patched = sides.remote.clone()
    patched.add_patches({WEIGHT: diff(5, 5), BIAS: diff(4)}, 0.5)
    text = "style.safetensors: 1 of 2 layers do not fit this model and are left out, as in ComfyUI: layer.weight"
    assert shown == [text]
    assert text in caplog.text
    local = sides.local.clone()
    local.add_patches({BIAS: diff(4)}, 0.5)
    assert torch.equal(sampled(patched), sampled(local))
    assert shown == [text, text]


def test_a_file_of_which_nothing_fits_is_refused(sides: Sides, running: Any) -> None:
    patched = sides.remote.clone()
    patched.add_patches({WEIGHT: diff(5, 5), BIAS: diff(5)})
    with pytest.raises(UnsupportedPatchError) as raised:
        sampled(patched)
    (obstacle,) = raised.value.obstacles
    assert obstacle.what.startswith("style.safetensors: weight patches of the kind diff that do not fit")
    assert obstacle.what.endswith("on 2 layers")
    assert "made for this model" in obstacle.remedy


def test_a_file_without_any_of_the_models_keys_is_reported(sides: Sides, shown: list[str], running: Any) -> None:
    sides.remote.clone().add_patches({})
    assert shown == ["style.safetensors: it has none of this model's keys, so it changes nothing."]


def test_a_node_without_a_lora_file_is_named_itself(sides: Sides, shown: list[str], running: Any) -> None:
    running["inputs"]["lora"] = 3
    sides.remote.clone().add_patches({})
    assert shown == ["LoraLoader (node 7): it has none of this model's keys, so it changes nothing."]


def test_outside_of_a_prompt_no_file_is_named(sides: Sides, shown: list[str]) -> None:
    sides.remote.clone().add_patches({})
    assert shown[0].startswith("A LoRA: ")


def test_a_merge_of_weights_of_other_shapes_is_counted(sides: Sides, caplog: Any) -> None:
    from comfy_gpu_offload.comfyui.client.patches.patch_uploads import report_skipped
    from comfy_gpu_offload.comfyui.wire.patch_writer import PatchData

    report_skipped(PatchData(unlike=3), sides.remote)
    assert "3 weights differ in shape" in caplog.text


def test_many_layers_are_shown_in_short(sides: Sides, shown: list[str], caplog: Any) -> None:
    from comfy_gpu_offload.comfyui.client.patches import skipped_patches
    from comfy_gpu_offload.comfyui.wire.patch_shapes import MisfitError
    from comfy_gpu_offload.comfyui.wire.patch_writer import LeftOut

    left = [LeftOut(f"diffusion_model.{number}", diff(1), MisfitError("")) for number in range(60)]
    skipped_patches.report(left, {}, {})
    assert shown[0].endswith(
        "60 of 60 layers do not fit this model and are left out, as in ComfyUI: 0, 1 and 58 more"
    )
    assert "49 and 10 more" in caplog.text


@pytest.mark.parametrize(
    ("value", "shape"),
    [
        (diff(5, 5), (4, 4)),  # skipped, with a line in the log
        ("lora 5", (4, 4)),
        (diff(4, 4), None),  # fits
        (diff(5, 5, pads=True), None),  # fits a larger weight
        (("diff", 3), None),  # ComfyUI itself fails
    ],
    ids=["a misfit", "an adapter's misfit", "a fit", "a larger one", "a failure"],
)
def test_comfyuis_own_code_says_what_it_skips(sides: Sides, value: Any, shape: Any, caplog: Any) -> None:
    from comfy_gpu_offload.comfyui.client.patches.misfit_patches import shape_if_skipped

    value = lora(5, 5) if value == "lora 5" else value
    with caplog.at_level(logging.DEBUG):
        assert shape_if_skipped(WEIGHT, (0.5, value, 1.0, None, None), (4, 4)) == shape
    assert caplog.records == []


def test_a_weight_is_padded_before_its_patch_is_skipped(sides: Sides) -> None:
    from comfy_gpu_offload.comfyui.client.patches.misfit_patches import shape_if_skipped

    patch = (0.0, diff(6, 4, pads=True), 1.0, None, None)
    assert shape_if_skipped(WEIGHT, patch, (4, 4)) == (6, 4)
