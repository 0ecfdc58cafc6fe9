"""Replaced code of ComfyUI and torch is noticed, told by whose it is; what no forward pass runs is not."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from tests.support.comfy_stand_in.fixtures import StandIn
from torch import nn

Replace = Callable[[Any, Any], None]


def packs_own(*_: Any, **__: Any) -> None:
    """Stand for a node pack's function: this file is no ComfyUI's, torch's or library's."""


@pytest.fixture
def loaded_code(comfy_stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    from comfy_gpu_offload.comfyui.client.changes import loaded_code

    monkeypatch.setattr(loaded_code, "_known", {})
    return loaded_code


@pytest.fixture
def network(comfy_stand_in: StandIn) -> Any:
    import comfy.ldm.stand_in

    return comfy.ldm.stand_in.Network(torch.float32)


def namespaces() -> Any:
    """Return what the changes below are made to."""
    import comfy.ldm.stand_in
    import comfy.lora
    import comfy.patcher_extension

    return types.SimpleNamespace(
        network=comfy.ldm.stand_in.Network,
        module=comfy.ldm.stand_in,
        lora=comfy.lora,
        extension=comfy.patcher_extension,
    )


REPLACED: dict[str, tuple[Callable[[Any], tuple[Any, str]], str]] = {
    "a method": (lambda own: (own.network, "_forward"), "Network._forward"),
    "a method of torch's": (lambda own: (nn.Linear, "forward"), "torch.nn.Linear.forward"),
    "a method of all modules": (lambda own: (nn.Module, "__call__"), "torch.nn.Module.__call__"),
    "a function of torch's": (lambda own: (nn.functional, "linear"), "torch.nn.functional.linear"),
    "a tensor's method": (lambda own: (torch.Tensor, "sum"), "torch.Tensor.sum"),
    "a function for patches": (lambda own: (own.lora, "calculate_weight"), "comfy.lora.calculate_weight"),
    "an imported module": (lambda own: (own.module, "torch"), "comfy.ldm.stand_in.torch"),
}
NOT_RUN: dict[str, Callable[[Any], tuple[Any, str]]] = {
    "what builds modules": lambda own: (nn.Linear, "reset_parameters"),
    "what saves": lambda own: (torch, "save"),
    "another module's": lambda own: (own.extension, "get_all_wrappers"),
}


@pytest.mark.parametrize("name", REPLACED)
def test_code_that_is_replaced_while_nodes_run_is_noticed_and_its_return_too(
    loaded_code: Any, network: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    find, part = REPLACED[name]
    code = loaded_code.of_network(network)
    assert code.replaced() is None
    with monkeypatch.context() as replaced:
        replaced.setattr(*find(namespaces()), packs_own)
        found = code.replaced()
        assert (found.part, found.value) == (part, packs_own)
    assert code.replaced() is None


@pytest.mark.parametrize("name", NOT_RUN)
def test_what_the_worker_does_not_run_is_not(
    loaded_code: Any, network: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    code = loaded_code.of_network(network)
    monkeypatch.setattr(*NOT_RUN[name](namespaces()), packs_own)
    assert code.replaced() is None


@pytest.mark.parametrize(
    ("name", "value", "is_noticed"),
    [
        ("len", packs_own, True),
        ("own_helper", packs_own, False),
        ("COUNT", 2, True),
        ("CACHE", {}, False),
        ("STORED", 2, False),
    ],
)
def test_names_in_a_module(loaded_code: Any, name: str, value: Any, is_noticed: bool) -> None:
    module = types.ModuleType("comfy.ldm.made")
    exec("COUNT, CACHE, STORED = 1, [], 1\ndef store():\n    global STORED\n    STORED = 5\n", vars(module))
    code = loaded_code.UsedCode([module])
    setattr(module, name, value)
    found = code.replaced()
    assert (found is not None) is is_noticed


def test_a_new_mark_on_a_class_of_comfyuis_is_noticed_and_one_on_torchs_not(
    loaded_code: Any, network: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = loaded_code.of_network(network)
    monkeypatch.setattr(nn.Linear, "_somebodys_mark", True, raising=False)
    assert code.replaced() is None
    monkeypatch.setattr(type(network), "_somebodys_mark", True, raising=False)
    assert code.replaced().part == "Network._somebodys_mark"


def test_code_that_was_a_packs_before_prompts_is_foreign_and_no_replacement(
    loaded_code: Any, network: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = namespaces()
    monkeypatch.setattr(own.network, "_forward", packs_own)
    monkeypatch.setattr(own.network, "somebodys_addition", packs_own, raising=False)
    monkeypatch.setattr(nn.Linear, "forward", packs_own)
    loaded_code.remember()
    code = loaded_code.of_network(network)
    assert code.replaced() is None
    assert sorted(change.part for change in code.foreign) == ["Network._forward", "torch.nn.Linear.forward"]


def test_what_is_remembered_first_counts(loaded_code: Any, network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded_code.remember()
    monkeypatch.setattr(type(network), "_forward", packs_own)
    assert loaded_code.of_network(network).replaced().part == "Network._forward"


def test_it_is_remembered_with_the_first_prompt(loaded_code: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import server

    calls: list[None] = []
    monkeypatch.setattr(loaded_code, "remember", lambda: calls.append(None))
    loaded_code.remember_before_prompts()  # no server: a worker, or a script
    instance = server.PromptServer()
    monkeypatch.setattr(server.PromptServer, "instance", instance)
    loaded_code.remember_before_prompts()
    (handler,) = instance.handlers
    assert [handler({"prompt": 1}), handler({"prompt": 2})] == [{"prompt": 1}, {"prompt": 2}]
    assert len(calls) == 1


def test_the_user_is_warned_of_foreign_code_by_pack(
    loaded_code: Any, network: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    from comfy_gpu_offload.comfyui.client.changes import foreign_code

    shown: list[str] = []
    monkeypatch.setattr(foreign_code.node_lines, "show", shown.append)
    names = [("Network", f"method_{number}") for number in range(5)]
    changes = tuple(foreign_code_change(".".join(name)) for name in names)
    model = types.SimpleNamespace(diffusion_model=types.SimpleNamespace(foreign=changes))
    foreign_code.warn_of_foreign(model)
    assert "test_loaded_code (Network.method_0, Network.method_1, Network.method_2 and 2 more)" in shown[0]
    assert "Network.method_4)" in caplog.text
    assert "have no effect there" in shown[0]
    model.diffusion_model.foreign = ()
    foreign_code.warn_of_foreign(model)
    assert len(shown) == 1


def foreign_code_change(part: str) -> Any:
    from comfy_gpu_offload.comfyui.client.changes.network_parts import Change

    return Change(part, packs_own)
