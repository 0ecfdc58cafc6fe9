"""A model's sampling to its wire form and back, with the classes of a stand-in for ComfyUI."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.support.comfy_stand_in.fixtures import StandIn

from comfy_gpu_offload.backends.base import ModelRunError
from comfy_gpu_offload.errors import UnsupportedValueError
from comfy_gpu_offload.io import tree


@pytest.fixture
def wire(comfy_stand_in: StandIn) -> Any:
    from comfy_gpu_offload.comfyui.wire import model_sampling

    return model_sampling


def made(*bases: type, **members: Any) -> Any:
    """Return a sampling as ComfyUI's nodes make it: of a class that is local to a function."""
    return type("Patched", bases, {"__qualname__": "patch.<locals>.Patched", **members})()


def flow() -> Any:
    import comfy.model_sampling as stock

    sampling = made(stock.ModelSamplingDiscreteFlow, stock.CONST)
    sampling.set_parameters(shift=3.0)
    return sampling


def test_a_sampling_is_rebuilt_with_its_numbers(wire: Any) -> None:
    import comfy.model_sampling as stock

    sent = flow()
    packed = tree.pack(wire.describe_sampling(sent), "sampling")
    built = wire.build_sampling(tree.unpack(packed.skeleton, packed.tensors))
    assert type(built).__mro__[1:] == type(sent).__mro__[1:]
    assert isinstance(built, stock.CONST)
    assert torch.equal(built.sigmas, sent.sigmas)
    assert (built.shift, built.multiplier) == (3.0, 1000)


def test_a_class_of_a_stock_nodes_module_travels(wire: Any) -> None:
    import comfy.model_sampling as stock
    from comfy_extras import nodes_model_advanced as advanced

    data = wire.describe_sampling(made(stock.ModelSamplingDiscreteFlow, advanced.LCM))
    assert data["classes"] == ["ModelSamplingDiscreteFlow", "LCM"]
    assert isinstance(wire.build_sampling(data), advanced.LCM)


def test_a_nodes_own_code_or_state_is_refused_by_name(wire: Any) -> None:
    import comfy.model_sampling as stock

    own = made(stock.ModelSamplingDiscreteFlow, stock.CONST, timestep=lambda self, sigma: sigma)
    with pytest.raises(UnsupportedValueError, match="its class is a node's own"):
        wire.describe_sampling(own)
    noted = flow()
    noted.helper = 3
    with pytest.raises(UnsupportedValueError, match="its helper is a node's own"):
        wire.describe_sampling(noted)
    strange = flow()
    strange.shift = "3"
    with pytest.raises(UnsupportedValueError, match="its shift is a node's own"):
        wire.describe_sampling(strange)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"classes": []}, "names no classes"),
        ({"classes": "CONST"}, "names no classes"),
        ({"classes": ["nn"]}, "no model sampling 'nn'"),
        ({"classes": ["torch"]}, "no model sampling 'torch'"),
        ({"classes": [3]}, "no model sampling 3"),
        ({"classes": ["CONST"]}, "do not go together"),
        ({"classes": ["CONST", "CONST"]}, "do not go together"),
        ({"buffers": {"surprise": torch.zeros(1)}}, "fields that this ComfyUI's lacks"),
        ({"buffers": {"sigmas": torch.zeros(100_001)}}, "fields that this ComfyUI's lacks"),
        ({"buffers": {"sigmas": 3.0}}, "The sigmas of the model's sampling is no tensor"),
        ({"buffers": None}, "fields that this ComfyUI's lacks"),
        ({"values": {"__class__": 1}}, "fields that this ComfyUI's lacks"),
        ({"values": {"shift": "3"}}, "fields that this ComfyUI's lacks"),
        ({"further": 1}, "not of a form known here"),
    ],
)
def test_what_is_none_is_refused(wire: Any, changes: dict[str, Any], said: str) -> None:
    data = {**wire.describe_sampling(flow()), **changes}
    with pytest.raises(ModelRunError, match=said):
        wire.build_sampling(data)
