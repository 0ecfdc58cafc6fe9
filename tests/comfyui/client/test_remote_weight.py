"""A stand-in for a weight answers what needs no data, and refuses the rest in the name of the code that asks."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from comfy_gpu_offload.errors import RemoteMergeError, RemoteWeightError

from .conftest import MODEL, Sides

KEY = "diffusion_model.layer.weight"
FACTS: dict[str, Callable[[Any], Any]] = {
    "shape": lambda w: tuple(w.shape),
    "size": lambda w: w.size(0),
    "dtype": lambda w: w.dtype,
    "device": lambda w: w.device,
    "is_cpu": lambda w: w.is_cpu,
    "is_cuda": lambda w: w.is_cuda,
    "numel": lambda w: w.numel(),
    "strides": lambda w: w.stride(),
    "a kind": lambda w: w.is_floating_point(),
    "of Parameter": lambda w: isinstance(w, nn.Parameter),
    "length": len,
    "a view's": lambda w: w[0].shape,
    "a flattened one's": lambda w: w.flatten(1).t().shape,
    "a converted one's": lambda w: w.half().dtype,
    "parts'": lambda w: [part.shape for part in w.chunk(2)],
    "one made like it": lambda w: torch.zeros_like(w).sum().item(),
    "a new one": lambda w: w.new_ones(2).tolist(),
}
READS: dict[str, Callable[[Any], Any]] = {
    "a sum": lambda w: w.sum(),
    "a product": lambda w: w @ torch.ones(4),
    "the other way": lambda w: torch.ones(4) * w,
    "its numbers": lambda w: w.tolist(),
    "one number": lambda w: w[0, 0].item(),
    "a comparison": lambda w: bool((w == 0).all()),
    "an array": lambda w: w.numpy(),
    "a view's": lambda w: w.t()[0].max(),
    "among others": lambda w: torch.cat([torch.ones(4, 4), w]),
    "its norm": lambda w: w.norm(),
}
CHANGES: dict[str, Callable[[Any], Any]] = {
    "in place": lambda w: w.add_(1),
    "by an operator": lambda w: w.__iadd__(1),
    "an item": lambda w: w.__setitem__(0, 1.0),
    "its data": lambda w: setattr(w, "data", torch.ones(4, 4)),
    "copied into": lambda w: w.copy_(torch.ones(4, 4)),
    "torch's initialisation": nn.init.zeros_,
}


@pytest.fixture
def weight(sides: Sides) -> Any:
    return sides.network.layer.weight


@pytest.mark.parametrize("name", FACTS)
def test_what_needs_no_data_is_answered_as_by_a_weight_here(sides: Sides, weight: Any, name: str) -> None:
    assert FACTS[name](weight) == FACTS[name](sides.local.model.diffusion_model.layer.weight)


@pytest.mark.parametrize("name", READS)
def test_reading_is_refused_by_name(weight: Any, name: str) -> None:
    with pytest.raises(RemoteWeightError) as raised:
        READS[name](weight)
    assert (raised.value.name, raised.value.key, raised.value.by) == (MODEL, KEY, "test_remote_weight: <lambda>")
    assert '"run on the worker" off' in str(raised.value)


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_refused_and_the_next_run_too_where_that_was_caught(
    sides: Sides, weight: Any, name: str
) -> None:
    with pytest.raises(RemoteWeightError):
        CHANGES[name](weight)
    with pytest.raises(RemoteWeightError, match=KEY):
        sides.remote.pre_run()


def test_a_read_that_was_caught_is_reported_with_each_run(sides: Sides, weight: Any, caplog: Any) -> None:
    with pytest.raises(RemoteWeightError):
        weight.sum()
    for _ in range(2):
        caplog.clear()
        assert sides.same()
        assert f"could not read {KEY}" in caplog.text


def test_a_read_that_ended_its_prompt_is_not_reported(sides: Sides, weight: Any, caplog: Any) -> None:
    import comfy_execution.utils as execution

    execution.present = execution.ExecutionContext("one", "1")
    try:
        with pytest.raises(RemoteWeightError):
            weight.sum()
        execution.present = execution.ExecutionContext("two", "1")
        assert sides.same()
        assert KEY not in caplog.text
    finally:
        execution.present = None


def test_running_a_layer_is_refused(sides: Sides) -> None:
    with pytest.raises(RemoteWeightError, match=r"cannot read or change diffusion_model\.layer\.weight"):
        sides.network.layer(torch.ones(4))


def test_loading_weights_into_a_layer_is_refused(sides: Sides) -> None:
    with pytest.raises(RemoteWeightError, match=r"layer\.weight"):
        sides.network.layer.load_state_dict({"weight": torch.ones(4, 4), "bias": torch.ones(4)})


def test_a_layer_is_copied_without_its_model(sides: Sides, weight: Any) -> None:
    made = copy.deepcopy(sides.network.layer)
    assert made.weight is not weight
    assert made.weight.remote is weight.remote
    assert isinstance(made.weight, nn.Parameter)
    with pytest.raises(RemoteWeightError, match=KEY):
        made.weight.sum()


def test_no_gradient_is_no_change(weight: Any) -> None:
    weight.requires_grad_(False)
    weight.grad = None
    assert weight.requires_grad is False


def test_a_weight_that_parts_share_stays_one(sides: Sides) -> None:
    from comfy_gpu_offload.comfyui.client.remote_weight import RemoteWeight, stand_in_for_weights

    network = nn.Sequential(nn.Linear(2, 2, device="meta"), nn.Linear(2, 2, device="meta"), nn.Linear(2, 2))
    network[1].weight = network[0].weight
    network[0].register_buffer("table", torch.empty(3, device="meta"))
    stand_in_for_weights(sides.remote.remote, network, "net.")
    assert network[1].weight is network[0].weight
    assert network[0].weight.key == "net.0.weight"
    assert (type(network[0].table), isinstance(network[0].table, nn.Parameter)) == (RemoteWeight, False)
    assert type(network[2].weight) is nn.Parameter


def test_merging_it_into_a_model_here_is_refused_as_a_merge(sides: Sides) -> None:
    (weight, convert), *_ = sides.remote.get_key_patches()[KEY]
    assert convert(weight, inplace=True) is weight
    with pytest.raises(RemoteMergeError, match=f"The remote model '{MODEL}' cannot be merged"):
        weight.clone().add(1)
