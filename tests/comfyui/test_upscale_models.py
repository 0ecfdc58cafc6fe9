"""Upscale models at a worker: ComfyUI's node runs there whole, equal bit for bit; changes are refused by name."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from .harness.checkouts import Checkout
from .harness.fixtures import run_script
from .harness.site import ComfyUI, Site
from .harness.workflow import Link, Workflow

pytestmark = [pytest.mark.comfyui, pytest.mark.each_release]

Found = dict[str, Any]
FILE = "twice.safetensors"


@pytest.fixture(scope="session")
def found(checkout: Checkout, python: Path, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """Return the findings of scripts/upscale_models/run.py."""
    output = run_script(
        python, "upscale_models/run.py", checkout.root, tmp_path_factory.mktemp("upscale_models"), timeout_s=900
    )
    read: Found = json.loads(output.splitlines()[-1])
    return read


def test_comfyuis_node_gives_the_same_in_one_exchange(found: Found) -> None:
    assert len(found["equal"]) == 11
    for name, (equal, spread, exchanges) in found["equal"].items():
        assert equal, name
        assert spread > 0.02, name
        assert exchanges == 1, name


def test_a_picture_of_a_file_goes_up_as_8_bit_values(found: Found) -> None:
    assert found["up"] < 1.2 * 256 * 256 * 3


def test_packs_that_call_tiles_get_the_same(found: Found) -> None:
    assert all(found["packs"].values()), found["packs"]


def test_8_bit_values_are_exact_for_what_is_saved(found: Found) -> None:
    assert found["levels"] == {"saved": True, "form": True, "bits are not": True}


def test_results_follow_the_clients_intermediate_dtype(found: Found) -> None:
    assert found["intermediates"]


def test_a_large_picture_comes_in_parts_with_a_progress_bar(found: Found) -> None:
    assert found["in parts"] == {"equal": True, "told": True}


def test_the_worker_lists_its_files(found: Found) -> None:
    assert found["listed"] == ["none.safetensors", "restoring.safetensors", "twice.pth", "twice.safetensors"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("another_scale", "scale"),
        ("own_forward", "network's forward"),
        ("another_network", "network's model"),
        ("object_patch", "the object patch on body"),
        ("half", r"to change their dtype, to torch\.float16"),
        ("copied", "to copy the network"),
        ("no model", r"There is no upscale model in .*none\.safetensors"),
        ("not there", r"There is no upscale model 'missing\.pth'"),
        ("whole numbers", r"has torch\.uint8: use numbers from 0 to 1"),
    ],
)
def test_what_the_worker_does_not_see_or_have_is_refused_by_name(found: Found, change: str, named: str) -> None:
    said = found["refused"][change]
    assert re.match(r"\w+Error: ", said)
    assert re.search(named, said), said


def stock(workflow: Workflow) -> Link:
    return workflow.add("UpscaleModelLoader", model_name=FILE)


def at_worker(workflow: Workflow) -> Link:
    return workflow.add("RemoteUpscaleModelLoader", model_name=FILE, use_runpod=True)


def here(workflow: Workflow) -> Link:
    return workflow.add("RemoteUpscaleModelLoader", model_name=FILE, use_runpod=False)


def upscaled(workflow: Workflow, load: Callable[[Workflow], Link]) -> Link:
    picture = workflow.add("OffloadTestImage", seed=8, count=1, height=40, width=600)
    return workflow.add("ImageUpscaleWithModel", upscale_model=load(workflow), image=picture)


def test_prompts_give_what_load_upscale_model_gives(comfyui: ComfyUI, site: Site) -> None:
    workflow = Workflow()
    for name, load in (("stock", stock), ("worker", at_worker), ("here", here)):
        workflow.add("OffloadTestSaveImage", image=upscaled(workflow, load), name=name)
    comfyui.run(workflow.graph)
    results = {name: comfyui.saved(name) for name in ("stock", "worker", "here")}
    assert results["stock"].shape == (1, 80, 1200, 3)
    assert float(results["stock"].std()) > 0.02
    assert torch.equal(results["worker"], results["stock"])
    assert torch.equal(results["here"], results["stock"])
    assert f"model upscale_model:{FILE} (default) asked for" in site.worker.process.output
    assert FILE in comfyui.offered("upscale_models")
