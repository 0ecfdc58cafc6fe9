"""Functions of ComfyUI's own nodes to their wire form and back, with a node of a stand-in for ComfyUI."""

from __future__ import annotations

import functools
from typing import Any

import pytest
from tests.support.comfy_stand_in.fixtures import StandIn

from comfy_gpu_offload.backends.base import ModelRunError
from comfy_gpu_offload.io import tree

NAME = "FreeU.output_block_patch"


@pytest.fixture
def wire(comfy_stand_in: StandIn) -> Any:
    from comfy_gpu_offload.comfyui.wire import stock_patches

    return stock_patches


class Model:
    """A patcher, as far as FreeU looks at one."""

    def __init__(self) -> None:
        self.model_options: dict[str, Any] = {"transformer_options": {}}

    def clone(self) -> Model:
        return self


def options(b1: Any = 1.5) -> dict[str, Any]:
    """Return `transformer_options` as the node leaves them."""
    from comfy_extras.nodes_freelunch import FreeU

    (model,) = FreeU().patch(Model(), b1)
    return model.model_options["transformer_options"]


def patch_of(given: dict[str, Any]) -> Any:
    return given["patches"]["output_block_patch"][0]


def test_a_patch_is_rebuilt_with_the_nodes_inputs(wire: Any) -> None:
    sent = {**options(), "cond_or_uncond": [0]}
    packed = tree.pack(wire.pack_options(sent), "options")
    found = wire.unpack_options(tree.unpack(packed.skeleton, packed.tensors))
    assert found["cond_or_uncond"] == [0]
    assert patch_of(found) is not patch_of(sent)
    assert patch_of(found)(2.0, 7.0, {}) == patch_of(sent)(2.0, 7.0, {}) == (3.0, 7.0)


def test_what_travels_is_the_name_and_the_values(wire: Any) -> None:
    data = patch_of(wire.pack_options(options()))
    assert data == {"function": NAME, "values": {"b1": 1.5}, "functions": {}, "defaults": []}


def test_patches_that_replace_are_kept_by_their_place(wire: Any) -> None:
    place = ("middle", 0, 1)
    sent = {"patches_replace": {"attn1": {place: patch_of(options())}, "attn2": {}}}
    packed = wire.pack_options(sent)["patches_replace"]
    assert set(packed) == {"attn1"}
    assert packed["attn1"][place]["function"] == NAME
    assert wire.unpack_options({"patches_replace": packed})["patches_replace"]["attn1"][place](1, 2, {}) == (1.5, 2)


def test_other_functions_do_not_travel(wire: Any) -> None:
    known = patch_of(options())

    def output_block_patch(h: Any, hsp: Any, transformer_options: Any) -> Any:
        return h, hsp

    @functools.wraps(known)
    def wrapped(*args: Any) -> Any:
        return known(*args)

    class FreeU:
        @staticmethod
        def output_block_patch(h: Any) -> Any:
            return h

    assert wire.is_known(known)
    for other in (output_block_patch, wrapped, FreeU.output_block_patch, functools.partial(known), print, "FreeU"):
        assert not wire.is_known(other)
    for value in (object(), [object()], "x" * 257, list(range(65)), [[[[[1]]]]]):
        assert not wire.is_known(patch_of(options(value)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"function": "os.system"}, "knows no function 'os.system'"),
        ({"function": "FreeU.__init__"}, "knows no function"),
        ({"function": 3}, "knows no function 3"),
        ({"function": "FreeU_V2.output_block_patch"}, "This worker's ComfyUI has no FreeU_V2.output_block_patch"),
        ({"function": "NAGuidance.nag_attention_output_patch"}, "cannot import comfy_extras.nodes_nag"),
        ({"values": {}}, "reads something else here"),
        ({"values": {"b1": 1.5, "b2": 1.5}}, "reads something else here"),
        ({"values": {"b1": b"1.5"}}, "reads something else here"),
        ({"values": None}, "reads something else here"),
        ({"defaults": [1, 2, 3, 4]}, "reads something else here"),
        ({"further": 1}, "not of a form known here"),
    ],
)
def test_what_is_none_is_refused(wire: Any, changes: dict[str, Any], said: str) -> None:
    data = {**patch_of(wire.pack_options(options())), **changes}
    with pytest.raises(ModelRunError, match=said):
        wire.unpack_options({"patches": {"output_block_patch": [data]}})


@pytest.mark.parametrize(
    "patches", [[], {"output_block_patch": {}}, {"output_block_patch": [None] * 4097}, {"a": 3}]
)
def test_patches_of_another_form_are_refused(wire: Any, patches: Any) -> None:
    with pytest.raises(ModelRunError):
        wire.unpack_options({"patches": patches})
