"""The example workflows, as far as they can be judged without ComfyUI: tests/web opens and runs them there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from PIL import Image

EXAMPLES = sorted((Path(__file__).parents[1] / "example_workflows").glob("*.json"))
REMOTE = ("RemoteModelLoader", "RemoteControlNetLoader")
each_example = pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
_LINK = re.compile(r"`models/(?P<directory>\w+)` \[(?P<name>[^\]]+)\]\((?P<url>[^)]+)\)")


def nodes_of(path: Path) -> list[dict[str, Any]]:
    nodes: list[dict[str, Any]] = json.loads(path.read_text())["nodes"]
    return nodes


def note_of(path: Path) -> str:
    (note,) = (node["widgets_values"][0] for node in nodes_of(path) if node["type"] == "MarkdownNote")
    return str(note)


def files_of(node: dict[str, Any]) -> list[str]:
    """Return the model files that a node's widgets name."""
    return [value for value in node["widgets_values"] if str(value).endswith(".safetensors")]


def test_those_that_the_documents_name_are_there() -> None:
    assert {"remote_model", "remote_control_net"} <= {path.stem for path in EXAMPLES}


@each_example
def test_every_link_is_known_at_both_ends_and_fits(path: Path) -> None:
    workflow = json.loads(path.read_text())
    nodes: dict[int, Any] = {node["id"]: node for node in workflow["nodes"]}
    for number, source, slot, target, place, kind in workflow["links"]:
        output, given = nodes[source]["outputs"][slot], nodes[target]["inputs"][place]
        assert number in output["links"]
        assert given["link"] == number
        assert output["type"] == given["type"] == kind
    assert all(given["link"] is not None for node in nodes.values() for given in node["inputs"])


@each_example
def test_it_holds_no_secret_and_no_address_but_of_models(path: Path) -> None:
    text = path.read_text()
    assert "token" not in text.lower()
    assert {urlsplit(url).netloc for url in re.findall(r"https?://[^\s\")]+", text)} == {"huggingface.co"}


@each_example
def test_each_local_loader_says_where_its_models_are_found(path: Path) -> None:
    local = [node for node in nodes_of(path) if files_of(node) and node["type"] not in REMOTE]
    assert local
    for node in local:
        models = node["properties"]["models"]
        assert [model["name"] for model in models] == files_of(node)
        for model in models:
            assert model["url"].endswith(f"/{model['name']}")
            assert model["directory"] == ("vae" if node["type"] == "VAELoader" else "text_encoders")


@each_example
def test_no_remote_loader_has_models_that_comfyui_would_offer_to_download_here(path: Path) -> None:
    remote = [node for node in nodes_of(path) if node["type"] in REMOTE]
    assert remote
    assert all("models" not in node["properties"] for node in remote)


@each_example
def test_the_note_links_what_the_worker_needs_and_what_this_machine_needs(path: Path) -> None:
    there, here = note_of(path).split("**On this machine**")
    assert there.startswith("**On the worker**")
    remote = [file for node in nodes_of(path) if node["type"] in REMOTE for file in files_of(node)]
    assert [link["name"] for link in _LINK.finditer(there)] == remote
    assert all(link["url"].endswith(f"/{link['name']}") for link in _LINK.finditer(there))
    local = [model for node in nodes_of(path) for model in node["properties"].get("models", [])]
    assert [link.groupdict() for link in _LINK.finditer(here)] == local


@each_example
def test_it_has_a_thumbnail(path: Path) -> None:
    thumbnail = path.with_suffix(".jpg")  # the one ending that ComfyUI looks for
    with Image.open(thumbnail) as picture:
        assert picture.format == "JPEG"
        assert picture.size[0] == picture.size[1] >= 400
    assert thumbnail.stat().st_size < 100_000
