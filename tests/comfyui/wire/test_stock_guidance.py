"""Guidance functions of ComfyUI's own nodes to their wire form and back, with a node of a stand-in for ComfyUI."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.support.comfy_stand_in.fixtures import StandIn

from comfy_gpu_offload.backends.base import ModelRunError


@pytest.fixture
def wire(comfy_stand_in: StandIn) -> Any:
    from comfy_gpu_offload.comfyui.wire import stock_guidance

    return stock_guidance


class Sampling:
    """A model's sampling that multiplies a time."""

    def __init__(self, factor: float) -> None:
        self._factor = factor

    def timestep(self, sigma: torch.Tensor) -> torch.Tensor:
        return sigma * self._factor


class Model:
    """A patcher, as far as RescaleCFG looks at one."""

    model_options: dict[str, Any] = {}  # noqa: RUF012

    def clone(self) -> Model:
        return self

    def get_model_object(self, name: str) -> Sampling:
        return Sampling(2.0)


def rescale(multiplier: float = 3.0) -> Any:
    from comfy_extras.nodes_model_advanced import RescaleCFG

    return RescaleCFG().patch(Model(), multiplier)[0].model_options["sampler_cfg_function"]


def test_a_function_is_rebuilt_for_the_sampling_of_its_model(wire: Any) -> None:
    data = wire.describe_guidance("sampler_cfg_function", rescale())
    assert (data["function"], data["values"]) == ("RescaleCFG.rescale_cfg", {"multiplier": 3.0})
    options = wire.rebuild_guidance({"sampler_cfg_function": data, "note": 1}, Sampling(5.0))
    assert options["note"] == 1
    assert options["sampler_cfg_function"]({"cond": torch.tensor(1.0)}) == 15.0


def test_several_functions_travel_where_all_are_known(wire: Any) -> None:
    key = "sampler_post_cfg_function"
    data = wire.describe_guidance(key, [rescale(1.0), rescale(2.0)])
    first, second = wire.rebuild_guidance({key: data}, Sampling(1.0))[key]
    assert [float(each({"cond": torch.tensor(1.0)})) for each in (first, second)] == [1.0, 2.0]
    assert wire.describe_guidance(key, [rescale(), print]) is None
    assert wire.describe_guidance(key, rescale()) is None
    assert wire.describe_guidance("sampler_other_function", rescale()) is None


@pytest.mark.parametrize("value", [3, {}, [None] * 65, [3], [{"function": "os.system"}]])
def test_what_is_none_is_refused(wire: Any, value: Any) -> None:
    with pytest.raises(ModelRunError):
        wire.rebuild_guidance({"sampler_post_cfg_function": value}, None)
