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
ALL_REMOTE = [path for path in EXAMPLES if path.stem.startswith("all_remote_")]
_OPTIONAL = 7  # litegraph's shape of such an input
_FOLDERS = {
    "Checkpoint": "checkpoints",
    "CLIP": "text_encoders",
    "ControlNet": "controlnet",
    "DualCLIP": "text_encoders",
    "VAE": "vae",
}
each_example = pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
_LINK = re.compile(r"`models/(?P<directory>\w+)` \[(?P<name>[^\]]+)\]\((?P<url>[^)]+)\)")


def nodes_of(path: Path) -> list[dict[str, Any]]:
    nodes: list[dict[str, Any]] = json.loads(path.read_text())["nodes"]
    return nodes


def is_remote(node: dict[str, Any]) -> bool:
    return bool(node["type"].startswith("Remote") and node["type"].endswith("Loader"))


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
    inputs = [given for node in nodes.values() for given in node["inputs"]]
    assert all(given["link"] is not None for given in inputs if given.get("shape") != _OPTIONAL)


@each_example
def test_it_holds_no_secret_and_no_address_but_of_models(path: Path) -> None:
    text = path.read_text()
    assert "token" not in text.lower()
    assert {urlsplit(url).netloc for url in re.findall(r"https?://[^\s\")]+", text)} == {"huggingface.co"}


@each_example
def test_each_loader_says_where_its_models_are_found(path: Path) -> None:
    loaders = [node for node in nodes_of(path) if files_of(node)]
    assert loaders
    for node in loaders:
        models = node["properties"]["models"]
        assert [model["name"] for model in models] == files_of(node)
        kind = node["type"].removeprefix("Remote").removesuffix("Loader")
        for model in models:
            assert model["url"].endswith(f"/{model['name']}")
            folders = ("checkpoints", "diffusion_models") if kind == "Model" else (_FOLDERS[kind],)
            assert model["directory"] in folders


@pytest.mark.parametrize("path", ALL_REMOTE, ids=lambda path: path.stem)
def test_those_with_everything_at_the_worker_need_no_file_here(path: Path) -> None:
    assert all(is_remote(node) for node in nodes_of(path) if files_of(node))
    assert "No model files." in note_of(path).partition("**On this machine**")[2]


def test_every_kind_of_model_has_one_with_everything_at_the_worker() -> None:
    remote = {node["type"] for path in ALL_REMOTE for node in nodes_of(path) if is_remote(node)}
    assert {"RemoteCheckpointLoader", "RemoteCLIPLoader", "RemoteDualCLIPLoader", "RemoteVAELoader"} <= remote


@each_example
def test_the_note_links_what_the_worker_needs_and_what_this_machine_needs(path: Path) -> None:
    there, here = note_of(path).split("**On this machine**")
    assert there.startswith("**On the worker**")
    for text, remote in ((there, True), (here, False)):
        nodes = [node for node in nodes_of(path) if is_remote(node) == remote]
        models = [model for node in nodes for model in node["properties"].get("models", [])]
        assert [link.groupdict() for link in _LINK.finditer(text)] == models


@each_example
def test_it_has_a_thumbnail(path: Path) -> None:
    thumbnail = path.with_suffix(".jpg")  # the one ending that ComfyUI looks for
    with Image.open(thumbnail) as picture:
        assert picture.format == "JPEG"
        assert picture.size[0] == picture.size[1] >= 400
    assert thumbnail.stat().st_size < 100_000
