"""What a node puts into a network is noticed and named; what is nothing to the network is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

from comfy_gpu_offload.comfyui.network_parts import NetworkParts


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.Linear(2, 2)

    def part_of_forward(self, x: Any) -> Any:
        return self.attention(x)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block()])


def replace_forward(network: Any) -> None:
    network.blocks[1].attention.forward = lambda x: x


def replace_method(network: Any) -> None:
    network.blocks[0].part_of_forward = lambda x: x


def replace_block(network: Any) -> None:
    network.blocks[1] = Block()


def add_block(network: Any) -> None:
    network.blocks.append(Block())


def replace_blocks(network: Any) -> None:
    network.blocks = nn.ModuleList(network.blocks)


def add_hook(network: Any) -> None:
    network.blocks[0].register_forward_hook(lambda *_: None)


def add_pre_hook(network: Any) -> None:
    network.register_forward_pre_hook(lambda *_: None)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (replace_forward, "blocks.1.attention.forward"),
        (replace_method, "blocks.0.part_of_forward"),
        (replace_block, "blocks.modules"),
        (add_block, "blocks.modules"),
        (replace_blocks, "modules"),
        (add_hook, "blocks.0.hooks"),
        (add_pre_hook, "hooks"),
    ],
)
def test_what_is_put_into_a_network_is_named(change: Callable[[Any], None], named: str) -> None:
    network = Network()
    parts = NetworkParts(network)
    assert parts.changed() is None
    change(network)
    assert parts.changed() == named


def test_a_method_of_a_class_is_noticed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = NetworkParts(Network())
    assert list(parts.foreign()) == []
    monkeypatch.setattr(Block, "part_of_forward", lambda _, x: x)
    assert parts.changed() == "Block.part_of_forward"


def test_a_method_that_is_a_packs_already_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    def of_a_pack(_: Any, x: Any) -> Any:
        return x

    of_a_pack.__module__ = "custom_nodes.some-pack"
    monkeypatch.setattr(Block, "part_of_forward", of_a_pack)
    parts = NetworkParts(Network())
    assert list(parts.foreign()) == [("Block.part_of_forward", "custom_nodes.some-pack")]
    assert parts.changed() is None


def test_it_is_over_when_it_is_taken_back() -> None:
    network: Any = Network()
    network.register_forward_pre_hook(lambda *_: None)  # the network's own
    parts = NetworkParts(network)
    network.blocks[0].forward = lambda x: x
    handle = network.register_forward_hook(lambda *_: None)
    assert parts.changed() is not None
    del network.blocks[0].forward
    handle.remove()
    assert parts.changed() is None


def test_a_note_on_a_block_is_no_change() -> None:
    network: Any = Network()
    parts = NetworkParts(network)
    network.blocks[0].number = 3
    network.cache = {}
    network.eval()
    assert parts.changed() is None
