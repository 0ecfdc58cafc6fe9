from __future__ import annotations

import uuid
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from comfy_gpu_offload.errors import FrameError, UnsupportedValueError
from comfy_gpu_offload.io.tree import Record, first_tensor, map_tensors, pack, pack_call, unpack


def through(value: Any) -> Any:
    """Packed, through msgpack as in a frame, and unpacked."""
    packed = pack(value)
    return unpack(msgpack.unpackb(msgpack.packb(packed.skeleton)), packed.tensors)


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=10)
    | st.binary(max_size=10)
)
SCALARS |= st.sampled_from([torch.bfloat16, torch.float8_e4m3fn, torch.int64]) | st.uuids()
KEYS = st.text(max_size=5) | st.integers() | st.tuples(st.text(max_size=3), st.integers(0, 9))
TREES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=3)
    ),
    max_leaves=20,
)


def same(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


@given(TREES)
@settings(max_examples=300, deadline=None)
def test_plain_values_come_back_with_their_types(value: Any) -> None:
    assert same(through(value), value)


def test_tensors_come_back_at_their_places_and_shared_ones_are_sent_once() -> None:
    x, y = torch.ones(2), torch.zeros(3)
    packed = pack_call((x, [y, (x,)]), {"context": y, "c": {("input", 1): x}})
    assert packed.paths == ("args[0]", "args[1][0]")
    args, kwargs = unpack(packed.skeleton, packed.tensors)
    assert args[0] is args[1][1][0] is kwargs["c"]["input", 1] is x
    assert kwargs["context"] is y


def test_paths_are_unique_even_where_keys_look_alike() -> None:
    long = "k" * 200
    packed = pack({long + "1": torch.ones(1), long + "2": torch.ones(1)})
    assert len(set(packed.paths)) == 2


def test_what_is_nearly_plain_becomes_plain() -> None:
    assert through(torch.Size([2, 3])) == (2, 3)
    assert same(through([np.float32(0.5), np.int64(7), np.bool_(True)]), [0.5, 7, True])
    assert same(through(OrderedDict(a=1)), {"a": 1})
    parameter = torch.nn.Parameter(torch.ones(2))
    assert torch.equal(through(parameter), parameter)


def test_a_diffusers_output_comes_back_by_attribute_name_and_position() -> None:
    @dataclass
    class Output(OrderedDict):  # type: ignore[type-arg]
        sample: torch.Tensor
        extra: Any = None

        def __post_init__(self) -> None:
            self["sample"], self["extra"] = self.sample, self.extra

    record = through(Output(torch.ones(2)))
    assert isinstance(record, Record)
    assert record.sample is record["sample"] is record[0]
    assert record.to_tuple() == (record.sample,)
    with pytest.raises(AttributeError, match="sample"):
        record.absent  # noqa: B018


Point = namedtuple("Point", "x y")


class Tagged(torch.Tensor):
    pass


class IntLike(int):
    pass


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (print, "builtin_function_or_method"),
        (lambda: None, "function"),
        (torch.nn.Linear(1, 1), "Linear"),
        ({1, 2}, "set"),
        (1j, "complex"),
        (range(3), "range"),
        (np.zeros(3), "ndarray"),
        (Point(1, 2), "Point"),
        (IntLike(3), "IntLike"),
        (torch.device("cpu"), "device"),
        (torch.Generator(), "Generator"),
        (torch.eye(2).to_sparse(), "Tensor"),
        (torch.empty(2, device="meta"), "Tensor"),
        (torch.zeros(2, dtype=torch.complex128), "Tensor"),
        (torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.quint8), "Tensor"),
        (torch.ones(2).as_subclass(Tagged), "Tagged"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else value,
)
def test_what_cannot_travel_is_refused_with_its_path(value: Any, kind: str) -> None:
    with pytest.raises(UnsupportedValueError) as caught:
        pack_call((), {"options": {"deep": [1, value]}})
    assert caught.value.path == "kwargs['options']['deep'][1]"
    assert kind in caught.value.kind


def test_cycles_and_endless_depth_are_refused() -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    with pytest.raises(UnsupportedValueError, match="nested"):
        pack(cycle)


@pytest.mark.parametrize(
    "skeleton",
    [
        [], [1], [None], {"a": 1}, ["?"], ["T", 5], ["T", -1], ["T", True], ["T", "0"], ["T"], ["T", 0, 0],
        ["y", "load"], ["y", "no_such"], ["y", 1], ["u", b"short"], ["u", "x" * 16], ["i", "x"], ["i", "9" * 5000],
        ["d", "key"], ["d", "a", 1, "a", 2], ["d", ["l"], 1], ["r", 1, 2], ["l", []],
    ],
    ids=str,
)  # fmt: skip
def test_a_malformed_skeleton_is_a_bad_tree(skeleton: Any) -> None:
    with pytest.raises(FrameError) as caught:
        unpack(skeleton, (torch.ones(1),))
    assert caught.value.malformation == "bad_tree"


def test_a_skeleton_nested_too_deep_is_a_bad_tree() -> None:
    skeleton: Any = 1
    for _ in range(100):
        skeleton = ["l", skeleton]
    with pytest.raises(FrameError, match="bad_tree"):
        unpack(skeleton, ())


def test_trees_are_mapped_and_searched_in_order() -> None:
    tree = {"a": [1, torch.ones(1)], "b": Record({"sample": torch.zeros(1)})}
    doubled = map_tensors(tree, lambda tensor: tensor + 1)
    assert doubled["a"][1].item() == 2
    assert doubled["b"].sample.item() == 1
    found = first_tensor(tree)
    assert found is not None
    assert found.item() == 1
    assert first_tensor([1, {"x": None}]) is None
    assert isinstance(through(uuid.UUID(int=5)), uuid.UUID)
