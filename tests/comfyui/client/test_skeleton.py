"""A worker's description of a model: checked, and built into a model without weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.support.comfy_stand_in.fixtures import StandIn

from comfy_gpu_offload.errors import MessageError, OffloadError

GOOD: dict[str, Any] = {
    "config_class": "StandInConfig",
    "unet_config": {"image_model": "stand_in"},
    "sampling_settings": {"shift": 3.0},
    "model_type": "FLOW",
    "weight_dtype": torch.bfloat16,
    "manual_cast_dtype": torch.float32,
    "keys": {"layer.weight": ((4, 4), torch.bfloat16), "layer.bias": ((4,), torch.bfloat16)},
}
pytestmark = pytest.mark.usefixtures("comfy_stand_in")


def built(**changed: Any) -> Any:
    from comfy_gpu_offload.comfyui.client.skeleton import WorkerModel, build_skeleton

    return build_skeleton(WorkerModel.of(GOOD | changed))


def test_the_model_is_as_described_and_has_no_data() -> None:
    model = built()
    assert model.model_config.sampling_settings == {"shift": 3.0}
    assert model.model_config.unet_config == {"image_model": "stand_in"}
    assert model.model_type.name == "FLOW"
    assert model.get_dtype() is torch.bfloat16
    assert model.manual_cast_dtype is torch.float32
    assert all(weight.is_meta for weight in model.diffusion_model.parameters())


def test_a_model_that_computes_while_it_is_built_is_built_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    import comfy.supported_models

    ordinary = comfy.supported_models.StandInConfig.get_model

    def computes(self: Any, state_dict: Any, prefix: str = "", device: Any = None) -> Any:
        if torch.device(device).type == "meta":
            raise RuntimeError("Tensor.item() cannot be called on meta tensors")
        return ordinary(self, state_dict, prefix, device)

    monkeypatch.setattr(comfy.supported_models.StandInConfig, "get_model", computes)
    assert all(weight.is_meta for weight in built().diffusion_model.parameters())


def test_weights_beside_the_network_have_their_data(monkeypatch: pytest.MonkeyPatch) -> None:
    import comfy.supported_models

    ordinary, given = comfy.supported_models.StandInConfig.get_model, []

    def with_another_part(self: Any, state_dict: Any, prefix: str = "", device: Any = None) -> Any:
        given.append(sorted(state_dict))
        model = ordinary(self, state_dict, prefix, device)
        model.cc_projection = torch.nn.Linear(2, 1, bias=False, device=device)
        return model

    monkeypatch.setattr(comfy.supported_models.StandInConfig, "get_model", with_another_part)
    weight = torch.tensor([[1.0, 2.0]])
    model = built(beside={"cc_projection.weight": weight})
    assert torch.equal(model.cc_projection.weight, weight)
    assert given == [["cc_projection.weight", "layer.bias", "layer.weight"]]


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"config_class": 3}, "no valid config_class"),
        ({"unet_config": None}, "no valid unet_config"),
        ({"weight_dtype": "float32"}, "no valid weight_dtype"),
        ({"manual_cast_dtype": "float32"}, "no valid manual_cast_dtype"),
        ({"keys": {"a": (4, torch.float32)}}, "invalid keys"),
        ({"keys": {"a": ((-1,), torch.float32)}}, "invalid keys"),
        ({"keys": {"a": ((True,), torch.float32)}}, "invalid keys"),
        ({"keys": {"a": ((4,), "float32")}}, "invalid keys"),
        ({"keys": {3: ((4,), torch.float32)}}, "invalid keys"),
        ({"beside": []}, "no valid beside"),
        ({"beside": {"a": 3}}, "invalid weights"),
        ({"more": 3}, "not of the expected form"),
    ],
    ids=str,
)
def test_a_malformed_description_is_refused(changed: dict[str, Any], says: str) -> None:
    with pytest.raises(MessageError, match=says):
        built(**changed)


@pytest.mark.parametrize("details", [None, [], {}], ids=str)
def test_no_description_is_refused(details: Any) -> None:
    from comfy_gpu_offload.comfyui.client.skeleton import WorkerModel

    with pytest.raises(MessageError, match="not of the expected form"):
        WorkerModel.of(details)


def test_a_worker_of_the_other_backend_is_told() -> None:
    from comfy_gpu_offload.comfyui.client.skeleton import WorkerModel

    with pytest.raises(OffloadError, match="--backend comfyui"):
        WorkerModel.of({"config": {}})


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"config_class": "LaterModel"}, "a LaterModel, cannot be used here, because this ComfyUI does not know"),
        ({"config_class": "comfy"}, "does not know that class"),  # a module of theirs, and no config
        ({"model_type": "LATER"}, "has no model type LATER"),
        ({"beside": {"later.weight": torch.ones(1)}}, r"cannot build it \(KeyError"),
    ],
    ids=str,
)
def test_another_comfyui_is_told(changed: dict[str, Any], says: str) -> None:
    with pytest.raises(OffloadError, match=says) as raised:
        built(**changed)
    assert "Use the same ComfyUI release on both sides" in str(raised.value)


def test_the_stand_in_is_what_was_imported(comfy_stand_in: StandIn) -> None:
    import comfy

    assert comfy.__file__ is not None
    assert comfy.__file__.startswith(str(comfy_stand_in.root))
