"""The wire form of ControlNets' residuals: nothing is lost, and equal tensors cross once."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from comfy_gpu_offload.backends.base import ModelRunError
from comfy_gpu_offload.comfyui.wire.control_outputs import pack_residuals, unpack_residuals
from comfy_gpu_offload.io import tree


def over_the_wire(data: Any) -> Any:
    packed = tree.pack(data, "control")
    return tree.unpack(packed.skeleton, packed.tensors)


def test_what_arrives_is_what_was_sent() -> None:
    shared = torch.randn(2, 3, 4)
    control = {"input": [], "middle": [None, shared], "output": [shared, torch.randn(4, 2).half(), None]}
    arrived = unpack_residuals(over_the_wire(pack_residuals(control)[0]))
    assert list(arrived) == list(control)
    for name, tensors in control.items():
        assert len(arrived[name]) == len(tensors)
        for sent, came in zip(tensors, arrived[name], strict=True):
            assert (sent is None) == (came is None)
            assert sent is None or torch.equal(sent, came)


def test_equal_tensors_and_equal_rows_travel_once() -> None:
    row = torch.randn(1, 3, 8, 8)
    rows, again = row.repeat(2, 1, 1, 1), row.repeat(4, 1, 1, 1)
    data, size_bytes = pack_residuals({"output": [rows, rows.clone(), again, row.clone()]})
    assert size_bytes == row.nbytes
    assert [tensor.nbytes for tensor in tree.pack(data).tensors] == [row.nbytes]
    assert [tuple(tensor.shape) for tensor in unpack_residuals(over_the_wire(data))["output"]] == [
        (2, 3, 8, 8),
        (2, 3, 8, 8),
        (4, 3, 8, 8),
        (1, 3, 8, 8),
    ]


@pytest.mark.parametrize("copies", [1, 2, 3])
def test_residuals_keep_their_order_in_memory(copies: int) -> None:
    part = torch.randn(1, 3, 4, 5)
    orders = {
        "plain": part.repeat(copies, 1, 1, 1),
        "channels last": part.repeat(copies, 1, 1, 1).to(memory_format=torch.channels_last),
        "batch last": part.repeat(copies, 1, 1, 1).permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
        "a slice": torch.cat([part, part], 1).repeat(copies, 1, 1, 1)[:, 2:5],
    }
    data, _ = pack_residuals({"output": list(orders.values())}, torch.float32)
    for sent, came in zip(orders.values(), unpack_residuals(over_the_wire(data))["output"], strict=True):
        assert torch.equal(sent, came)
        assert sent.stride() == came.stride()


def test_zeros_of_two_signs_are_two() -> None:
    zeros = torch.zeros(1, 4)
    data, size_bytes = pack_residuals({"output": [zeros, -zeros]})
    assert size_bytes == 2 * zeros.nbytes
    assert unpack_residuals(over_the_wire(data))["output"][1].signbit().all()


def test_wider_ones_are_rounded_where_that_is_asked_for() -> None:
    wide, narrow = torch.randn(1, 5), torch.randn(1, 5).half()
    data, _ = pack_residuals({"output": [wide, narrow]}, torch.bfloat16)
    assert torch.equal(data["output"][0], wide.to(torch.bfloat16))
    assert torch.equal(data["output"][1], narrow)


@pytest.mark.parametrize("count", [0, 1, 65, 2**40, 2.0, "2", None])
def test_a_count_that_is_none_is_refused(count: Any) -> None:
    with pytest.raises(ModelRunError):
        unpack_residuals({"output": [{"copies": count, "of": torch.zeros(1, 2)}]})


@pytest.mark.parametrize("part", [None, 3, torch.tensor(1.0), [torch.zeros(1)]])
def test_copies_of_what_is_no_part_are_refused(part: Any) -> None:
    with pytest.raises(ModelRunError):
        unpack_residuals({"output": [{"copies": 2, "of": part}]})
