"""The owner of a piece of code, through its wrappers: a node pack, ComfyUI, torch or a library."""

from __future__ import annotations

import functools
import importlib.util
import json
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import pytest
import torch
from tests.support.comfy_stand_in.fixtures import StandIn

PACK = """
import functools

class Attention:
    def patch(self):
        def inner():
            return calling()
        return inner

def wraps(function):
    @functools.wraps(function)
    def wrapper(*args):
        return function(*args)
    return wrapper

def calls(function):
    return function()
"""


@pytest.fixture
def origin(comfy_stand_in: StandIn) -> Any:
    from comfy_gpu_offload.comfyui.client.changes import code_origin

    return code_origin


@pytest.fixture
def pack(comfy_stand_in: StandIn) -> ModuleType:
    """Give a node pack in a folder of `custom_nodes`."""
    folder = comfy_stand_in.models / "custom_nodes" / "comfyui-nice"
    folder.mkdir()
    return imported(folder / "nodes.py")


def imported(path: Path) -> ModuleType:
    path.write_text(PACK)
    spec = importlib.util.spec_from_file_location("some_pack", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_packs_code_is_named_by_its_folder_and_qualified_name(origin: Any, pack: ModuleType) -> None:
    assert origin.name_of(pack.Attention().patch()) == "comfyui-nice: Attention.patch.inner"
    assert origin.name_of(pack.Attention().patch) == "comfyui-nice: Attention.patch"
    assert origin.packs_name_of(pack.wraps) == "comfyui-nice: wraps"


def test_a_pack_of_one_file_is_named_by_it(origin: Any, comfy_stand_in: StandIn) -> None:
    single = imported(comfy_stand_in.models / "custom_nodes" / "single_file.py")
    assert origin.name_of(single.wraps) == "single_file: wraps"


def test_a_packs_code_counts_more_than_what_it_wraps_or_is_wrapped_by(origin: Any, pack: ModuleType) -> None:
    import comfy.sample

    assert origin.name_of(pack.wraps(comfy.sample.sample)) == "comfyui-nice: wraps.wrapper"
    partial = functools.partial(pack.wraps(torch.nn.functional.linear), 1)
    assert origin.packs_name_of(partial) == "comfyui-nice: wraps.wrapper"
    assert origin.module_of(pack.wraps(comfy.sample.sample)) == "comfy.sample"
    outer = FunctionType(comfy.sample.sample.__code__, vars(comfy.sample))
    outer.__wrapped__ = pack.calls  # type: ignore[attr-defined]
    assert origin.name_of(outer) == origin.packs_name_of(outer) == "comfyui-nice: calls"


def test_comfyuis_own_nodes_and_code(origin: Any) -> None:
    import comfy.sample
    from comfy_extras.nodes_freelunch import FreeU

    assert origin.name_of(FreeU.patch) == "FreeU"
    assert origin.name_of(comfy.sample.sample) == "ComfyUI: sample"
    assert origin.packs_name_of(comfy.sample.sample) is None


@pytest.mark.parametrize("value", [3, [1], None, "text", torch.ones(2), Path("/")], ids=str)
def test_what_has_no_code_of_its_own_is_nobodys(origin: Any, value: Any) -> None:
    assert origin.name_of(value) is None


def test_a_librarys_function_is_no_packs(origin: Any) -> None:
    assert origin.packs_name_of(json.dumps) is None
    assert origin.name_of(json.dumps) == "json: dumps"
    assert origin.packs_name_of(torch.nn.Linear.forward) is None


def test_whose_function_stands_in_torchs_place(origin: Any, pack: ModuleType) -> None:
    assert origin.replaces_torchs(torch.nn.Linear.forward) is None
    assert origin.replaces_torchs(json.dumps) is None
    assert origin.replaces_torchs(pack.wraps(torch.nn.Linear.forward)) == "comfyui-nice: wraps.wrapper"


def test_the_innermost_pack_on_the_stack_is_the_caller(origin: Any, pack: ModuleType) -> None:
    assert pack.wraps(origin.caller)() == "comfyui-nice: wraps.wrapper"
    assert pack.calls(origin.calling_node) == "comfyui-nice: calls"


def test_this_package_is_no_pack(origin: Any) -> None:
    assert not origin.is_packs(Path(origin.__file__))
    assert not origin.is_packs(Path("<string>"))
    assert not origin.is_packs(Path(torch.__file__))
    assert origin.is_packs(Path(__file__))
