"""Code that reads weights of a remote model, or computes with them, is refused by its name; the rest works."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from .harness.checkouts import Checkout
from .harness.fixtures import run_script

pytestmark = pytest.mark.comfyui

Found = dict[str, Any]


@pytest.fixture(scope="session")
def found(checkout: Checkout, python: Path, models_yaml: Path) -> Found:
    """Return the findings of scripts/jobs/weight_readers.py."""
    output = run_script(python, "jobs/weight_readers.py", checkout.root, models_yaml.parent)
    found: Found = json.loads(output.splitlines()[-1])
    return found


def test_what_needs_a_weights_data_is_refused_by_whose_code_it_is_and_the_weights_name(found: Found) -> None:
    assert len(found["refused"]) == 27
    for name, said in found["refused"].items():
        assert re.match(
            r"RemoteWeightError: weight_readers: [\w.<>]+ cannot read or change "
            r"diffusion_model\.text_embedding\.0\.weight: it is a weight of the remote model 'wan\.safetensors'",
            said,
        ), (name, said)
        assert '"run on the worker" off' in said


def test_a_nodes_function_is_named(found: Found) -> None:
    assert ": weight_readers: runs_a_layer cannot" in found["refused"]["a layer"]
    assert ": weight_readers: in_place_around_a_call.wrapper cannot" in found["refused"]["in place around a call"]


def test_weights_that_are_loaded_into_a_layer_are_refused(found: Found) -> None:
    assert found["loaded"].startswith("RemoteWeightError: weight_readers: loaded_into_a_layer")
    assert "joint_blocks.0.x_block.attn.proj.weight" in found["loaded"]


def test_comfyuis_own_loader_that_adds_to_weights_is_refused(found: Found) -> None:
    assert found["diff"].startswith("RemoteWeightError: nodes: DiffControlNetLoader.load_controlnet cannot")


def test_what_needs_no_data_is_answered_as_by_a_weight_that_is_here(found: Found) -> None:
    works = found["works"]
    assert len(works["here"]) == 21
    assert works["there"] == works["here"]
    assert works["same keys"]


def test_runs_after_all_of_it_are_as_ever(found: Found) -> None:
    assert found["after all"] == {"each step": True, "whole loop": True}


@pytest.mark.parametrize("name", ["read", "read by another's method"])
def test_a_weight_that_a_node_goes_on_without_is_said_with_each_run(found: Found, name: str) -> None:
    run = found["caught"][name]
    said = (
        "weight_readers: <lambda> could not read diffusion_model.x_embedder.proj.weight, which is at the worker, "
        "and went on without: its effect may be missing."
    )
    assert run == {"same": [True, True], "refused": [], "said": [said, said], "loaded anew": False}


@pytest.mark.parametrize("name", ["in a method", "in an operator", "in a part", "in its data"])
def test_a_change_that_a_node_goes_on_without_is_refused_with_each_run(found: Found, name: str) -> None:
    run = found["caught"][name]
    assert len(run["refused"]) == 2
    for said in run["refused"]:
        assert said.startswith("RemoteWeightError: weight_readers: <lambda> cannot read or change")
    assert run["loaded anew"]
