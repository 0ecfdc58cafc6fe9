"""The translations of the nodes, as ComfyUI gives them out, against the nodes' definitions."""

from __future__ import annotations

from typing import Any

import pytest

from .harness.site import REPOSITORY, ComfyUI

pytestmark = [pytest.mark.comfyui, pytest.mark.each_release]

LANGUAGES = sorted(folder.name for folder in (REPOSITORY / "locales").iterdir())
MODULE = "custom_nodes.comfy-gpu-offload"


def own_nodes(comfyui: ComfyUI) -> dict[str, Any]:
    every = comfyui.api.get("/object_info")
    return {name: definition for name, definition in every.items() if definition["python_module"] == MODULE}


def inputs_of(definition: dict[str, Any]) -> dict[str, Any]:
    """Return the inputs' options by name."""
    groups = definition["input"]
    return {name: spec[1] for name, spec in {**groups["required"], **groups.get("optional", {})}.items()}


def test_english_says_what_the_definitions_say(comfyui: ComfyUI) -> None:
    """But for KSampler's inputs, which are ComfyUI's own and differ between its releases."""
    said = comfyui.api.get("/i18n")["en"]["nodeDefs"]
    ksampler = inputs_of(comfyui.api.object_info("KSampler"))
    for name, definition in own_nodes(comfyui).items():
        stock = ksampler.keys() if name == "RemoteSampler" else set()
        own = {each: options for each, options in inputs_of(definition).items() if each not in stock}
        assert said[name] == {
            "display_name": definition["display_name"],
            "description": definition["description"],
            "inputs": {
                each: {"name": options.get("display_name", each), "tooltip": options["tooltip"]}
                for each, options in own.items()
            },
            "outputs": {
                str(place): {"tooltip": tooltip} for place, tooltip in enumerate(definition["output_tooltips"])
            },
        }


@pytest.mark.parametrize("language", [language for language in LANGUAGES if language != "en"])
def test_a_translation_has_every_text_and_no_other(comfyui: ComfyUI, language: str) -> None:
    translated = comfyui.api.get("/i18n")[language]
    nodes = own_nodes(comfyui)
    assert {name for name in translated["nodeDefs"] if name in nodes} == nodes.keys()
    for name, definition in nodes.items():
        entry = translated["nodeDefs"][name]
        assert entry.keys() == {"display_name", "description", "inputs", "outputs"}
        assert entry["inputs"].keys() == inputs_of(definition).keys()
        assert all(texts.keys() == {"name", "tooltip"} for texts in entry["inputs"].values())
        assert entry["outputs"].keys() == {str(place) for place in range(len(definition["output"]))}
        assert all(texts.keys() == {"tooltip"} for texts in entry["outputs"].values())


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_entry_is_for_a_node_or_a_category_that_is_not_there(comfyui: ComfyUI, language: str) -> None:
    said = comfyui.api.get("/i18n")[language]
    nodes = own_nodes(comfyui)
    # The pack of the tests has no locales, so all of it is ours.
    assert said["nodeDefs"].keys() == nodes.keys()
    categories = {part for definition in nodes.values() for part in definition["category"].split("/")}
    assert said["nodeCategories"].keys() <= categories


def test_help_pages_are_served(comfyui: ComfyUI) -> None:
    pages = REPOSITORY / "web" / "docs"
    for page in pages.rglob("*.md"):
        path = page.relative_to(pages).as_posix()
        assert comfyui.api.status_of(f"/extensions/comfy-gpu-offload/docs/{path}") == (200, page.read_text("utf-8"))
