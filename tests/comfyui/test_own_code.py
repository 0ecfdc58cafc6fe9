"""Code that reaches past ComfyUI's patches is refused by name, before anything is sent."""

import json
from pathlib import Path
from typing import Any

import pytest

from .harness.checkouts import Checkout
from .harness.fixtures import run_script

pytestmark = pytest.mark.comfyui

Found = dict[str, Any]


@pytest.fixture(scope="session")
def found(checkout: Checkout, python: Path, models_yaml: Path) -> Found:
    """Return the findings of scripts/jobs/own_code.py."""
    output = run_script(python, "jobs/own_code.py", checkout.root, models_yaml.parent)
    found: Found = json.loads(output.splitlines()[-1])
    return found


@pytest.mark.parametrize(
    ("change", "part", "by"),
    [
        ("a method for a call", "forward_orig", "own_code: _method_for_a_call.wrapper"),
        ("blocks for a call", "blocks", "own_code: _blocks_for_a_call.wrapper"),
        ("a block's forward", "blocks.0.forward", "own_code: _forward_of_a_block.<lambda>"),
        ("a block's hook", "blocks.0.hooks", "own_code: _hook_of_a_block.<lambda>"),
        ("every attention", "blocks.0.self_attn.forward", "own_code: _every_attention.<lambda>"),
        ("weights", "weights", "own_code: _weights"),
    ],
)
def test_what_a_node_puts_into_the_network_is_refused(found: Found, change: str, part: str, by: str) -> None:
    run = found["put in"][change]
    assert run["mattered"]
    assert run["said"].startswith("UnsupportedPatchError")
    assert f"the change to the network's {part} ({by})" in run["said"]
    assert run["calls"] == 0


@pytest.mark.parametrize("change", ["a block's forward", "a block's hook", "every attention"])
def test_a_network_that_something_stays_in_is_made_anew_with_the_next_prompt(found: Found, change: str) -> None:
    assert found["put in"][change]["loaded anew"]


def test_a_method_of_comfyuis_class_is_refused_as_long_as_it_stays(found: Found) -> None:
    run = found["of the class"]
    for each in (run, run["following"]):
        assert "the change to the network's WanModel.forward_orig, for every model in this ComfyUI" in each["said"]
        assert each["calls"] == 0
    assert run["same after it"]


def test_an_object_that_no_network_reads_stays_here(found: Found) -> None:
    run = found["objects in options"]
    assert run["same"]
    assert run["mattered"]
    assert run["calls"] > 0


def test_an_object_for_the_sampling_loop_is_refused_with_the_whole_loop(found: Found) -> None:
    whole = found["objects in options"]["whole"]
    assert "own_code" in whole["said"]
    assert whole["said"].startswith("UnsupportedRunError")
    assert whole["calls"] == 0


@pytest.mark.parametrize("way", ["each step", "whole loop"])
def test_what_packs_replaced_before_any_prompt_is_warned_of_once_a_run(found: Found, way: str) -> None:
    same, said, shown = found["before prompts"][way]
    assert same
    assert len(said) == len(shown) == 1
    for text in (*said, *shown):
        assert "own_code (" in text
        assert "WanModel.forward_orig" in text
        assert "comfy.ldm.wan.model.optimized_attention" in text
        # Nothing of ComfyUI's knows it.
        assert "a_packs_own" not in text
        # That runs here, and that is a library's.
        assert "load_lora" not in text
        assert "rearrange" not in text
        # In a loop that runs here it does what it does.
        assert ("comfy.samplers.calc_cond_batch" in text) == (way == "whole loop")


def test_a_loop_whose_code_a_pack_replaced_is_run_here_unless_asked_otherwise(found: Found) -> None:
    assert found["before prompts"]["auto"] is False


def test_what_no_call_runs_may_be_replaced_while_nodes_run(found: Found) -> None:
    ways = ("load", "reset_parameters", "model_lora_keys_unet", "convert_lora", "torch.compile")
    assert found["no call's"] == dict.fromkeys(ways, True)


def test_an_injection_is_refused_before_it_is_put_in(found: Found) -> None:
    run = found["injected"]
    assert "the injection 'bypass' (own_code: injected.put)" in run["said"]
    assert "TeaCache" not in run["said"]
    assert run["calls"] == 0
    assert run["same after it"]


def test_what_reads_weights_is_refused_and_writes_nothing(found: Found) -> None:
    refused = found["read"]["refused"]
    assert len(refused) >= 5
    for name, run in refused.items():
        assert run["said"].startswith("RemoteWeightsError: The weights of the remote model 'mmdit."), (name, run)
        assert '"run on the worker" off' in run["said"]
        assert run["files"] == run["calls"] == 0
    assert found["read"]["same after it"]


@pytest.mark.parametrize("net", ["Control-LoRA", "in a chain", "SD3.5"])
def test_a_control_net_here_that_takes_the_models_weights_is_refused(found: Found, net: str) -> None:
    run = found["controls"][net]
    assert run["said"].startswith("RemoteControlNetError")
    assert "Remote ControlNet Loader" in run["said"]
    assert run["calls"] == 0
