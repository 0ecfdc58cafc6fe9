"""Weight patches of every form that ComfyUI survives: equal bit for bit, with the messages on them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from .harness.checkouts import Checkout
from .harness.fixtures import run_script

pytestmark = [pytest.mark.comfyui, pytest.mark.each_release]

Found = dict[str, Any]
_LAYER = "joint_blocks.0.x_block.attn.proj"


@pytest.fixture(scope="session")
def found(checkout: Checkout, python: Path, models_yaml: Path) -> Found:
    """Return the findings of scripts/jobs/patch_forms.py."""
    output = run_script(python, "jobs/patch_forms.py", checkout.root, models_yaml.parent)
    found: Found = json.loads(output.splitlines()[-1])
    return found


def wrong(runs: Found) -> Found:
    """Return those that differ from the local run, each way, or that say nothing since they change nothing."""
    ways = ("each step", "whole loop", "mattered", "finite")
    return {name: run for name, run in runs.items() if not all(run.get(way) for way in ways)}


def test_patches_without_tensors_travel(found: Found) -> None:
    runs = found["without tensors"]
    assert len(runs) == 6
    assert not wrong(runs)
    assert not any(run["said"] for run in runs.values())


def test_a_layer_that_does_not_fit_is_left_out_as_comfyui_leaves_it_out(found: Found) -> None:
    runs = found["with misfits"]
    assert len(runs) == 16
    assert not wrong(runs)


def test_what_is_left_out_is_said(found: Found) -> None:
    for name, run in found["with misfits"].items():
        layer = f"{_LAYER}.{'bias' if name == 'bias' else 'weight'}"
        said = f"A LoRA: 1 of \\d layers do not fit this model and are left out, as in ComfyUI: {re.escape(layer)}"
        assert run["said"], name
        assert all(re.fullmatch(said, line) for line in run["said"]), (name, run["said"])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nothing fits", "UnsupportedPatchError: .*kind LoRAAdapter that do not fit .*on 1 layer"),
        ("one of two files", "nothing"),
        ("nothing with a strength", "UnsupportedPatchError: .*on which ComfyUI itself fails"),
        ("set", "UnsupportedPatchError: .*kind set that do not fit"),
    ],
)
def test_it_is_refused_where_nothing_fits_or_comfyui_itself_fails(found: Found, name: str, said: str) -> None:
    assert re.match(said, found["refusals"][name], re.DOTALL), found["refusals"][name]


def test_a_lora_with_no_key_of_the_model_is_said_to_change_nothing(found: Found) -> None:
    run = found["not loaded"]
    assert run["each step"]
    assert run["whole loop"]
    assert not run["mattered"]
    assert run["said"] == ["A LoRA: it has none of this model's keys, so it changes nothing."]


@pytest.mark.parametrize("name", ["a LoRA", "a LoRA that does not fit", "merged with another"])
def test_a_model_with_more_channels_is_called_with_more(found: Found, name: str) -> None:
    assert not wrong({name: found["widened"]["runs"][name]})


def test_a_network_shows_the_shapes_that_the_last_run_gave_it(found: Found) -> None:
    shapes = found["widened"]["shapes"]
    assert [[channels for _, channels, *_ in each] for each in shapes["local"]] == [[36, 36], [16, 16], [36, 36]]
    assert shapes["remote"] == shapes["local"]
    after = found["widened"]["runs"]["after it"]
    assert after["each step"]
    assert after["whole loop"]
