"""ComfyUI's containers of tensors to their wire form and back, with those of a stand-in for ComfyUI."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.support.comfy_stand_in.fixtures import StandIn

from comfy_gpu_offload.backends.base import ModelRunError
from comfy_gpu_offload.comfyui.wire.plain_values import from_plain, to_plain
from comfy_gpu_offload.io import tree


def over_the_wire(value: Any) -> Any:
    packed = tree.pack(to_plain(value), "value")
    return from_plain(tree.unpack(packed.skeleton, packed.tensors))


def test_a_latent_of_several_parts_arrives_as_one(comfy_stand_in: StandIn) -> None:
    from comfy.nested_tensor import NestedTensor

    parts = [torch.randn(1, 4, 2), torch.randn(1, 8)]
    (found,) = over_the_wire([NestedTensor(parts)])
    assert isinstance(found, NestedTensor)
    assert all(map(torch.equal, found.tensors, parts))


def test_an_output_of_clip_vision_arrives_as_one(comfy_stand_in: StandIn) -> None:
    from comfy.clip_vision import Output

    sent = Output()
    sent.last_hidden_state, sent.image_sizes = torch.randn(1, 3), [(2, 2)]
    found = over_the_wire({"clip_vision_output": sent, "other": (1, None)})
    assert found["other"] == (1, None)
    assert isinstance(found["clip_vision_output"], Output)
    assert torch.equal(found["clip_vision_output"].last_hidden_state, sent.last_hidden_state)
    assert found["clip_vision_output"].image_sizes == [(2, 2)]


@pytest.mark.parametrize(
    "data",
    [
        {"__comfyui__": "os.system", "fields": {}},
        {"__comfyui__": 3},
        {"__comfyui__": ["NestedTensor"], "tensors": []},
        {"__comfyui__": "NestedTensor", "tensors": {}},
        {"__comfyui__": "ClipVisionOutput", "fields": []},
        {"__comfyui__": "ClipVisionOutput", "fields": {"__class__": 1}},
        {"__comfyui__": "ClipVisionOutput", "fields": {"_private": 1}},
        {"__comfyui__": "ClipVisionOutput", "fields": {3: 1}},
    ],
)
def test_what_stands_for_nothing_known_is_refused(comfy_stand_in: StandIn, data: Any) -> None:
    with pytest.raises(ModelRunError, match="not of a form known here"):
        from_plain([data])


def test_a_comfyui_without_such_latents_says_so(comfy_stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "comfy.nested_tensor", None)
    with pytest.raises(ModelRunError, match="knows no latents of several parts"):
        from_plain({"__comfyui__": "NestedTensor", "tensors": [torch.zeros(1)]})
