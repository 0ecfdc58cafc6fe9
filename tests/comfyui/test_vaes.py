"""VAEs at a worker: equal to ComfyUI's own bit for bit, and no change of one is lost on the way in silence."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from .harness.checkouts import Checkout
from .harness.fixtures import run_script

pytestmark = [pytest.mark.comfyui, pytest.mark.each_release]

Found = dict[str, Any]
_VAES = ("sd15", "flux", "wan21", "wan22", "ltxv", "oobleck", "taesd")
_METHODS = ("decode", "decode_tiled", "encode", "encode_tiled")


def _run(checkout: Checkout, python: Path, folder: Path, *arguments: str) -> Found:
    output = run_script(python, "vaes/run.py", checkout.root, folder, *arguments)
    found: Found = json.loads(output.splitlines()[-1])
    return found


@pytest.fixture(scope="session")
def found(checkout: Checkout, python: Path, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """Return the findings of scripts/vaes/run.py."""
    return _run(checkout, python, tmp_path_factory.mktemp("vaes"))


@pytest.fixture(scope="session")
def in_bf16(checkout: Checkout, python: Path, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """Return the same of VAEs that compute in bfloat16, whose results are sent so."""
    return _run(checkout, python, tmp_path_factory.mktemp("vaes16"), "--bf16-vae")


@pytest.mark.parametrize("name", _VAES)
@pytest.mark.parametrize("method", _METHODS)
def test_each_method_is_equal_bit_for_bit(found: Found, in_bf16: Found, name: str, method: str) -> None:
    for each in (found, in_bf16):
        equal, spread = each["equal"][name][method]
        assert equal
        assert spread > 0.05


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("circular", r"encoder\.conv_in\.padding_mode"),
        ("circular_by_method", r"encoder\.conv_in\._conv_forward \(run: circular_by_method"),
        ("another_dtype", "vae_dtype"),
        ("another_network", "first_stage_model"),
        ("another_ratio", "upscale_ratio"),
        ("object_patch", r"the object patch on decoder\.conv_in"),
        ("a_forward", r"decoder\.forward \(run: a_forward"),
        ("own_decode", r"network's decode \(run: own_decode"),
        ("copied", "to copy the network"),
        ("saved", "to save them"),
        ("read", r"decoder\.conv_in\.weight"),
    ],
)
def test_changes_that_the_worker_does_not_see_are_refused_by_name(found: Found, change: str, named: str) -> None:
    said = found["refused"][change]
    assert re.match(r"(UnsupportedPatch|RemoteWeights?)Error: ", said)
    assert re.search(named, said)


def test_changes_that_can_be_sent_are_made(found: Found) -> None:
    assert found["changed"]
    assert all(found["changed"].values()), found["changed"]


def test_comfyuis_own_nodes_give_the_same(found: Found) -> None:
    assert {"VAEDecode", "VAEDecodeTiled", "VAEEncode", "VAEEncodeForInpaint"} <= found["nodes"].keys()
    assert all(found["nodes"].values()), found["nodes"]


def test_8_bit_values_are_exact_for_what_is_saved(found: Found, in_bf16: Found) -> None:
    for each in (found, in_bf16):
        assert all(each["levels"].values()), each["levels"]


def test_results_follow_the_clients_intermediate_dtype(found: Found) -> None:
    assert all(found["intermediates"].values()), found["intermediates"]


def test_a_worker_that_is_lost_between_encoding_and_decoding_makes_no_difference(found: Found) -> None:
    assert found["restarted"] == {"decoded": True}


def test_a_large_video_comes_in_parts_with_a_progress_bar(found: Found) -> None:
    assert found["in parts"] == {"equal": True, "told": True}


def test_the_worker_lists_what_load_vae_offers(found: Found) -> None:
    assert found["listed"] == {"listed": True}


def test_the_vae_of_a_checkpoint_is_a_module_of_its_own(found: Found) -> None:
    assert found["checkpoint"].keys() == set(_METHODS)
    assert all(found["checkpoint"].values()), found["checkpoint"]
