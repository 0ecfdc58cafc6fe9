"""Text encoders at a worker, without a server: conditioning is ComfyUI's own, bit for bit, whatever nodes do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from .harness.checkouts import Checkout
from .harness.fixtures import run_script

pytestmark = [pytest.mark.comfyui, pytest.mark.each_release]

Found = dict[str, Any]
# What is the same on purpose.
_ALIKE = (
    {"without, after all", "without it, after all", "a part", "CLIP-L, prompt 1"},
    {"a part's encode", "a part's forward"},
    {"a part's forward replaced", "an object patch"},
    # Both scale what comes out of the same part.
    {"a part's method replaced", "a part's encode replaced"},
    {"pooled alone", "CLIP-L, prompt 0"},
)


@pytest.fixture(scope="session")
def found(checkout: Checkout, python: Path, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """Return the findings of scripts/encoders/run.py."""
    folder = tmp_path_factory.mktemp("encoders")
    output = run_script(python, "encoders/run.py", checkout.root, folder, timeout_s=1200)
    found: Found = json.loads(output.splitlines()[-1])
    return found


@pytest.mark.parametrize("group", ["families", "behaviour"])
def test_conditioning_is_that_of_a_local_encoder_bit_for_bit(found: Found, group: str) -> None:
    assert len(found[group]) > 20
    assert [name for name, case in found[group].items() if not case["equal"]] == []


def test_what_was_compared_is_worth_comparing(found: Found) -> None:
    cases = found["families"] | found["behaviour"]
    assert all(case["spread"] > 0.1 for case in cases.values())
    alike: dict[tuple[float, ...], set[str]] = {}
    for name, case in found["behaviour"].items():
        alike.setdefault((case["spread"], *case["first"]), set()).add(name)
    assert [
        names for names in alike.values() if len(names) > 1 and not any(names <= known for known in _ALIKE)
    ] == []


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("a block replaced", "clip_l.transformer.text_model.encoder.layers.0.forward"),
        ("a part's inner method replaced", "clip_l.process_tokens"),
        ("an object patch inside", "the object patch on clip_l.transformer.text_model.final_layer_norm"),
        ("ComfyUI's class changed", "SDClipModel.forward, for every model in this ComfyUI"),
        ("a composite with weights", "clip_l.encode_token_weights, around which projection would be needed here"),
        ("saved", "cannot be read here to save them"),
        ("half", "dtype, to torch.float16"),
        ("a weight read", "cannot read or change clip_l.transformer.text_model.embeddings.token_embedding.weight"),
        ("merged into a local one", "cannot be merged into a model on this machine"),
        ("a local one merged in", "a model merge whose second model is loaded here"),
        ("a bypass LoRA", "the injection 'bypass_lora'"),
        ("a token that is none", "A token's number, 1000000, is outside of the text encoder's vocabulary"),
    ],
)
def test_what_cannot_work_is_refused_by_name(found: Found, case: str, said: str) -> None:
    assert said in found["refusals"][case]
    assert found["refusals"][case].partition(":")[0].endswith("Error")


def test_moving_it_is_no_change(found: Found) -> None:
    assert found["refusals"]["moved"] == "went on"


def test_a_real_composite_with_weights_of_its_own_is_refused_where_a_part_is_replaced(found: Found) -> None:
    if not found["memory"]:
        pytest.skip("this release has no such composite")
    said = found["refusals"]["a real composite with weights"]
    assert "gemma3_12b.encode_token_weights, around which text_embedding_projection.weight" in said


def test_no_model_here_makes_room_for_what_the_worker_computes(found: Found) -> None:
    """Later releases free memory on this machine by an encoder's own estimate."""
    for name, (stock, remote) in found["memory"].items():
        assert stock > 0, name
        assert remote == 0, name
