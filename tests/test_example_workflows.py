"""The example workflow, as far as it can be judged without a browser: tests/comfyui loads it in ComfyUI."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "example_workflows").glob("*.json"))


def test_there_is_one() -> None:
    assert EXAMPLES


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_link_is_known_at_both_ends_and_fits(path: Path) -> None:
    workflow = json.loads(path.read_text())
    nodes: dict[int, Any] = {node["id"]: node for node in workflow["nodes"]}
    for number, source, slot, target, place, kind in workflow["links"]:
        output, given = nodes[source]["outputs"][slot], nodes[target]["inputs"][place]
        assert number in output["links"]
        assert given["link"] == number
        assert output["type"] == given["type"] == kind
    assert all(given["link"] is not None for node in nodes.values() for given in node["inputs"])


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_no_secret_and_no_address_is_in_it(path: Path) -> None:
    text = path.read_text().lower()
    assert "token" not in text
    assert "http" not in text
