"""Changes of a network by a node are noticed and named; notes that the network does not read are left alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from comfy_gpu_offload.comfyui.client.changes.network_parts import NetworkParts


class Rope:
    def __init__(self) -> None:
        self.axes = [16, 56]
        self.theta = 10_000


class Block(nn.Module):
    scale = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.Linear(2, 2)
        self.norm = nn.LayerNorm(2)
        self.drop = nn.Dropout(0.1)
        self.num_heads = 4
        self.sizes = [1, [2, 3]]
        self.options = {"window": {"size": 7}}
        self.rope = Rope()
        self.table = torch.zeros(2)
        self.register_buffer("positions", torch.arange(2.0))

    def part_of_forward(self, x: Any) -> Any:
        if hasattr(self, "cached_attention"):
            return x
        return self.attention(x)


class OtherBlock(Block):
    def part_of_forward(self, x: Any) -> Any:
        return x


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block()])


class Doubled(nn.Module):
    def forward(self, weight: Any) -> Any:
        return weight * 2


def in_block(change: Callable[[Any], object]) -> Callable[[Any], object]:
    def changed(network: Any) -> None:
        with torch.no_grad():
            change(network.blocks[1])

    return changed


CHANGES: dict[str, tuple[Callable[[Any], object], str]] = {
    "a forward": (in_block(lambda block: setattr(block.attention, "forward", id)), "blocks.1.attention.forward"),
    "a method": (in_block(lambda block: setattr(block, "part_of_forward", id)), "blocks.1.part_of_forward"),
    "a class": (in_block(lambda block: setattr(block, "__class__", OtherBlock)), "blocks.1.__class__"),
    "a block": (lambda network: network.blocks.__setitem__(1, Block()), "blocks.modules"),
    "a block more": (lambda network: network.blocks.append(Block()), "blocks.modules"),
    "other blocks": (lambda network: setattr(network, "blocks", nn.ModuleList(network.blocks)), "modules"),
    "a hook": (in_block(lambda block: block.register_forward_hook(print)), "blocks.1.hooks"),
    "a hook before": (lambda network: network.register_forward_pre_hook(print), "hooks"),
    "a number": (in_block(lambda block: setattr(block, "num_heads", 2)), "blocks.1.num_heads"),
    "a norm's eps": (in_block(lambda block: setattr(block.norm, "eps", 1.0)), "blocks.1.norm.eps"),
    "an attribute gone": (in_block(lambda block: delattr(block, "num_heads")), "blocks.1.num_heads"),
    "a class's attribute": (in_block(lambda block: setattr(block, "scale", 2.0)), "blocks.1.scale"),
    "what the code looks for": (
        in_block(lambda block: setattr(block, "cached_attention", 1)),
        "blocks.1.cached_attention",
    ),
    "a list's item": (in_block(lambda block: block.sizes.append(4)), "blocks.1.sizes"),
    "an inner list's item": (in_block(lambda block: block.sizes[1].append(4)), "blocks.1.sizes"),
    "an inner dict's": (in_block(lambda block: block.options["window"].update(size=8)), "blocks.1.options"),
    "an object's number": (in_block(lambda block: setattr(block.rope, "theta", 1)), "blocks.1.rope"),
    "an object's list": (in_block(lambda block: block.rope.axes.reverse()), "blocks.1.rope"),
    "a tensor": (in_block(lambda block: setattr(block, "table", torch.ones(2))), "blocks.1.table"),
    "a tensor in place": (in_block(lambda block: block.table.add_(1)), "blocks.1.table"),
    "a parameter": (
        in_block(lambda block: setattr(block.attention, "weight", nn.Parameter(torch.ones(2, 2)))),
        "blocks.1.attention.weight",
    ),
    "a parameter gone": (
        in_block(lambda block: block.attention.register_parameter("bias", None)),
        "blocks.1.attention.bias",
    ),
    "a parameter in place": (
        in_block(lambda block: block.attention.weight.mul_(2)),
        "blocks.1.attention.weight",
    ),
    "a parametrization": (
        in_block(lambda block: parametrize.register_parametrization(block.attention, "weight", Doubled())),
        "blocks.1.attention.__class__",
    ),
    "a buffer": (in_block(lambda block: setattr(block, "positions", torch.zeros(2))), "blocks.1.positions"),
    "a buffer in place": (in_block(lambda block: block.positions.zero_()), "blocks.1.positions"),
    "training": (in_block(lambda block: block.train()), "blocks.1.drop.training"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_changed_of_a_network_is_named(change: str) -> None:
    network = Network().eval()
    parts = NetworkParts(network)
    assert parts.changed() is None
    make, named = CHANGES[change]
    make(network)
    found = parts.changed()
    assert found is not None
    assert found.part == named
    # As long as it stays.
    again = parts.changed()
    assert again is not None
    assert again.part == named


@pytest.mark.parametrize(
    "change",
    [
        lambda weight: setattr(weight, "data", torch.ones(2, 2)),
        lambda weight: setattr(weight, "data", weight.data.half()),
        lambda weight: setattr(weight, "data", weight.data.t()),
    ],
)
def test_weights_behind_a_parameter_are_compared_around_a_run(change: Callable[[Any], None]) -> None:
    network: Any = Network()
    parts = NetworkParts(network)
    assert parts.changed_between() is None
    change(network.blocks[0].attention.weight)
    found = parts.changed_between()
    assert found is not None
    assert found.part == "blocks.0.attention.weight"


def test_what_was_put_there_is_told() -> None:
    network: Any = Network()
    parts = NetworkParts(network)
    network.blocks[0].attention.forward = replaced = lambda x: x
    found = parts.changed()
    assert found is not None
    assert found.value is replaced


def test_weights_on_no_device_count_what_is_written_to_them_too() -> None:
    network: Any = Network().to("meta")
    parts = NetworkParts(network)
    weight = network.blocks[0].attention.weight
    with torch.inference_mode():
        weight.mul_(2)
        weight.div_(2)
    found = parts.changed()
    assert found is not None
    assert found.part == "blocks.0.attention.weight"


def test_it_is_over_when_it_is_taken_back() -> None:
    network: Any = Network()
    network.register_forward_pre_hook(lambda *_: None)  # the network's own
    parts = NetworkParts(network)
    network.blocks[0].forward = lambda x: x
    network.blocks[0].num_heads = 1
    handle = network.register_forward_hook(lambda *_: None)
    assert parts.changed() is not None
    del network.blocks[0].forward
    network.blocks[0].num_heads = 4
    handle.remove()
    assert parts.changed() is None


def test_a_note_on_a_block_is_no_change() -> None:
    network: Any = Network()
    parts = NetworkParts(network)
    network.blocks[0].number = 3
    network.blocks[0].drop.p = 0.1
    network.cache = {}
    network.requires_grad_(False)
    network.zero_grad()
    assert parts.changed_between() is None
    # Nor is another one in its place.
    network.blocks[0].number = 4
    del network.cache
    assert parts.changed_between() is None


def test_training_is_nothing_to_a_network_that_computes_the_same_in_it() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.0)).eval()
    parts = NetworkParts(network)
    network.train()
    assert parts.changed() is None


def test_a_value_that_cannot_be_compared_is_a_change() -> None:
    class Odd:
        def __eq__(self, _: object) -> bool:
            raise ValueError("ambiguous")

        __hash__ = None  # type: ignore[assignment]

    network: Any = Network()
    network.blocks[0].odd = Odd()
    parts = NetworkParts(network)
    assert parts.changed() is None
    network.blocks[0].odd = Odd()
    found = parts.changed()
    assert found is not None
    assert found.part == "blocks.0.odd"


def test_many_threads_may_ask_while_notes_are_made() -> None:
    network: Any = Network()
    parts = NetworkParts(network)
    done = threading.Event()
    found: list[Any] = []

    def ask() -> None:
        while not done.is_set():
            found.append(parts.changed())

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(500):
        setattr(network.blocks[0], f"note{number}", SimpleNamespace())
    done.set()
    for thread in threads:
        thread.join()
    assert found
    assert set(found) == {None}
