"""A part of docs/compatibility.md, made anew: quick columns, and at least one model of each kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from .harness.checkouts import Checkout
from .harness.compatibility import Found, kind_of
from .harness.fixtures import run_script
from .harness.site import REPOSITORY

pytestmark = [pytest.mark.comfyui, pytest.mark.each_release]

_QUICK = (
    "SD3",
    "Stable_Zero123",
    "HunyuanVideo",
    "HunyuanImage21Refiner",
    "WAN21_I2V",
    "WAN21_Vace",
    "LTXAV",
    "MiniMaxH3",
    "Flux2",
)
# What cannot travel, by the way it is tried; a run that is refused as a whole works step by step.
_REFUSED = {
    (feature, way) for feature in ("other code in the network", "GLIGEN") for way in ("each step", "whole loop")
}


@pytest.fixture(scope="session")
def found(checkout: Checkout, python: Path) -> Found:
    return Found.of(checkout.version or "", run_script(python, "matrix/run.py", checkout.root, *_QUICK))


def test_every_architecture_gives_what_comfyui_gives_or_is_refused_by_name(found: Found) -> None:
    sampled = [name for name in _QUICK if found.has(name)]
    assert len(sampled) >= 5
    for name in sampled:
        row = found.rows[name]
        for feature, outcomes in {**row["common"], **row["own"]}.items():
            for way in outcomes.keys() - {"none", "stock"}:
                expected = "refused" if (feature, way) in _REFUSED else "identical"
                assert kind_of(outcomes[way]) == expected, (name, feature, way, outcomes[way])


def test_the_page_names_every_architecture_that_comfyui_knows(found: Found) -> None:
    page = (REPOSITORY / "docs" / "compatibility.md").read_text()
    assert [name for name in found.known if f"| {name} |" not in page] == []
