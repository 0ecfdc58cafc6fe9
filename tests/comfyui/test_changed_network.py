"""Changes of a remote model by a node itself are refused by name, prompt after prompt, or they work."""

import json
from pathlib import Path
from typing import Any

import pytest

from .harness.checkouts import Checkout
from .harness.fixtures import run_script

pytestmark = pytest.mark.comfyui

Found = dict[str, Any]
PROMPTS = {"each step": 3, "whole loop": 2}
NAMED = ("UnsupportedPatchError", "RemoteWeightError")


@pytest.fixture(scope="session", params=["DiT", pytest.param("UNet", marks=pytest.mark.oldest_release)])
def found(request: pytest.FixtureRequest, checkout: Checkout, python: Path, models_yaml: Path) -> Found:
    """Return the findings of scripts/jobs/changed_network.py."""
    output = run_script(python, "jobs/changed_network.py", checkout.root, models_yaml.parent, str(request.param))
    result: Found = json.loads(output.splitlines()[-1])
    return result


def _wrong(runs: Found, way: str, kinds: tuple[str, ...]) -> Found:
    """Return the messages of changes that were not refused by these errors in each prompt with the node."""
    assert all(len(run[way]["said"]) == PROMPTS[way] + 1 for run in runs.values())
    return {
        name: run[way]["said"]
        for name, run in runs.items()
        if not all(_is_named(said, run["to say"], kinds) for said in run[way]["said"][:-1])
    }


def _is_named(said: str, expected: str, kinds: tuple[str, ...]) -> bool:
    return said.startswith(kinds) and any(text in said for text in expected.split("|"))


def _is_a_wrapper(said: str) -> bool:
    return said.startswith("UnsupportedRunError") and "wrapper runs in the sampling loop" in said


def test_each_change_is_one_here(found: Found) -> None:
    runs = {**found["refused"], **found["local"]}
    assert len(runs) >= 30
    assert [name for name, run in runs.items() if not run["mattered"]] == []


def test_a_change_of_the_network_is_refused_by_name_each_time(found: Found) -> None:
    assert _wrong(found["refused"], "each step", NAMED) == {}


def test_a_change_of_the_network_is_refused_of_a_whole_loop(found: Found) -> None:
    wrong = _wrong(found["refused"], "whole loop", NAMED)
    # What a node does around calls is refused as what it is there: code of the sampling loop.
    others = {name: said for name, said in wrong.items() if not all(map(_is_a_wrapper, said[:-1]))}
    assert others == {}


@pytest.mark.parametrize("way", PROMPTS)
def test_a_run_without_the_node_is_as_here_after_refusals(found: Found, way: str) -> None:
    assert [name for name, run in found["refused"].items() if not run[way]["plain after it"]] == []


def test_a_change_of_the_sampling_loop_works_where_that_runs_here(found: Found) -> None:
    runs = {name: run["each step"] for name, run in found["local"].items()}
    assert all(len(run["as here"]) == PROMPTS["each step"] + 1 for run in runs.values())
    assert {name: run for name, run in runs.items() if not all(run["as here"])} == {}


def test_a_change_of_the_sampling_loop_is_refused_where_that_would_run_at_the_worker(found: Found) -> None:
    assert _wrong(found["local"], "whole loop", ("UnsupportedRunError",)) == {}
    assert [name for name, run in found["local"].items() if not run["whole loop"]["plain after it"]] == []
