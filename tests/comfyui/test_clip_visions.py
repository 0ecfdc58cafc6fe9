"""CLIP vision at a worker: equal to ComfyUI's own bit for bit, and no change of it is lost in silence."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from .harness.checkouts import Checkout
from .harness.fixtures import run_script

pytestmark = [pytest.mark.comfyui, pytest.mark.each_release]

Found = dict[str, Any]


@pytest.fixture(scope="session")
def found(checkout: Checkout, python: Path, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """Return the findings of scripts/clip_visions/run.py."""
    output = run_script(
        python, "clip_visions/run.py", checkout.root, tmp_path_factory.mktemp("clip_visions"), timeout_s=900
    )
    read: Found = json.loads(output.splitlines()[-1])
    return read


def test_outputs_are_equal_bit_for_bit(found: Found) -> None:
    kinds = {name.partition(",")[0] for name in found["equal"]}
    assert {"vit_l", "vit_h", "vit_g", "llava", "siglip", "dino2"} <= kinds
    for name, (differing, fields, spread) in found["equal"].items():
        assert differing == [], name
        assert {"last_hidden_state", "image_embeds", "penultimate_hidden_states", "mm_projected"} <= set(fields)
        assert spread > 0.05, name
    assert any("all_hidden_states" in fields for _, fields, _ in found["equal"].values())


def test_packs_that_call_the_network_themselves_get_the_same(found: Found) -> None:
    assert all(found["packs"].values()), found["packs"]


def test_what_comfyuis_nodes_make_of_an_output_is_the_same(found: Found) -> None:
    assert all(found["nodes"].values()), found["nodes"]


def test_a_prompt_gives_what_load_clip_vision_gives(found: Found) -> None:
    assert found["prompt"] == {"succeeded": True, "worker": [], "here": [], "said": ""}


def test_patches_on_weights_are_made(found: Found) -> None:
    assert found["patched"] == {"equal": True, "count": True}


def test_the_image_encoder_of_a_checkpoint_is_listed_and_used(found: Found) -> None:
    assert found["checkpoint"] == {"differing": [], "listed": True, "whole": True}


def test_a_picture_of_a_file_goes_up_as_8_bit_values_and_large_results_come_when_they_are_read(
    found: Found,
) -> None:
    sizes = found["sizes"]
    assert sizes["up"] < 0.3 * sizes["picture"]
    assert sizes["down"] < 0.2 * sizes["every"]
    assert sizes["later"] > 0


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("another_size", "image_size"),
        ("another_mean", "image_mean"),
        ("a_forward", r"vision_model\.encoder\.layers\.0\.forward \(run: a_forward"),
        ("own_forward", r"network's forward \(run: own_forward"),
        ("another_network", "network's model"),
        ("object_patch", r"the object patch on vision_model\.post_layernorm"),
        ("other_preprocessing", r"comfy\.clip_vision\.clip_preprocess"),
        ("copied", "to copy the network"),
        ("saved", "to save them"),
        ("loaded", "to put others in their place"),
        ("whole numbers", r"has torch\.uint8: use numbers from 0 to 1"),
        ("other arguments", "the network's arguments attention_mask"),
        ("read", r"visual_projection\.weight"),
        ("without one", r"There is no CLIP vision model 'checkpoints/without\.safetensors'"),
        ("another file", r"There is no CLIP vision model in .*no_encoder\.safetensors"),
    ],
)
def test_what_the_worker_does_not_see_or_have_is_refused_by_name(found: Found, change: str, named: str) -> None:
    said = found["refused"][change]
    assert re.match(r"\w+Error: ", said)
    assert re.search(named, said), said
