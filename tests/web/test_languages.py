"""locales/ and web/docs, on pages in English and in another language."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from tests.comfyui.harness.installation import Installation
from tests.comfyui.harness.site import REPOSITORY

from .harness.screen import Screen
from .harness.workflows import saved_node, saved_workflow

pytestmark = pytest.mark.comfyui

NODES = {
    "RemoteCheckpointLoader": [False, "sd15.safetensors"],
    "RemoteModelLoader": [False, "default", "digits.safetensors"],
    "RemoteControlNetLoader": [False, "edges.safetensors"],
    "RemoteVAELoader": [False, "sd.safetensors"],
    "RemoteCLIPVisionLoader": [False, "vit_h.safetensors"],
    "RemoteUpscaleModelLoader": [False, "4x.pth"],
    "RemoteAudioEncoderLoader": [False, "wav2vec2.safetensors"],
    "RemoteCLIPLoader": [False, "wan", "umt5.safetensors", "cpu"],
    "RemoteDualCLIPLoader": [False, "flux", "clip_l.safetensors", "t5.safetensors", "default"],
    "RemoteTripleCLIPLoader": [False, "clip_l.safetensors", "clip_g.safetensors", "t5.safetensors"],
    "RemoteQuadrupleCLIPLoader": [False, "l.safetensors", "g.safetensors", "t5.safetensors", "llama.safetensors"],
    "RemoteSampler": [7, "fixed", 3, 4.0, "euler", "normal", 1.0, "whole loop"],
}
# In the middle, where none of the page's own panels covers the node's buttons.
_SELECTED = """id => {
    const node = offloadTest.node(id);
    window.app.canvas.centerOnNode(node);
    window.app.canvas.selectItems([node]);
}"""
# As large as its text is drawn: a page that opens with many nodes is zoomed out until all of them fit.
_IN_SIGHT = """id => {
    window.app.canvas.ds.scale = 1;
    window.app.canvas.centerOnNode(offloadTest.node(id));
    window.app.canvas.setDirty(true, true);
}"""
LANGUAGES = sorted(folder.name for folder in (REPOSITORY / "locales").iterdir())


def texts(language: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((REPOSITORY / "locales" / language / name).read_text("utf-8"))
    return found


@pytest.fixture(params=LANGUAGES)
def language(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def page(installation: Installation, screen: Screen, language: str) -> Screen:
    """Open a page in that language, with one of each of the nodes, as saved by a page in English."""
    screen.open(**{"Comfy.Locale": language})
    screen.load(saved_workflow(*(saved_node(kind, NODES[kind], number) for number, kind in enumerate(NODES, 1))))
    return screen


def test_nodes_speak_the_pages_language(page: Screen, language: str) -> None:
    for number, kind in enumerate(NODES, 1):
        entry = texts(language, "nodeDefs.json")[kind]
        page.page.evaluate(_IN_SIGHT, number)
        page.wait(lambda name=entry["display_name"]: name in page.drawn(), f"the name of {kind}")  # type: ignore[misc]
        labels = {name: widget["label"] or name for name, widget in page.widgets(number).items()}
        for name, said in entry["inputs"].items():
            assert labels.get(name, said["name"]) == said["name"]
        # What is saved and what is run are the same in every language.
        assert page.saved()["nodes"][number - 1]["widgets_values"] == NODES[kind]
        given = page.prompt()[str(number)]["inputs"]
        assert list(given.values()) == [value for value in NODES[kind] if value != "fixed"]
    again = texts(language, "main.json")["comfyGpuOffload"]["ask again"]
    page.wait(lambda: all(said.endswith(f"({again})") for said in page.buttons()), "what a click on a button does")
    page.picture(f"nodes-{language}")
    assert page.own_errors == []


@pytest.mark.each_release
def test_help_is_in_the_pages_language(page: Screen, language: str) -> None:
    for number, kind in enumerate(NODES, 1):
        page.page.evaluate(_SELECTED, number)
        page.page.locator("[data-testid=info-button]").click()
        end = end_of_help(kind, language)
        page.wait(lambda end=end: end in page.text(), f"the help page of {kind}, down to {end!r}")  # type: ignore[misc]
        page.picture(f"help-{kind}-{language}")


def end_of_help(kind: str, language: str) -> str:
    """Return what the last link of a help page says."""
    file = f"{kind}.md" if language == "en" else f"{kind}/{language}.md"
    return re.findall(r"\[([^]]+)\]\(", (REPOSITORY / "web" / "docs" / file).read_text("utf-8"))[-1]
