"""locales/ and web/docs: the same texts in every language. tests/comfyui compares them with the nodes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
LANGUAGES = sorted(folder.name for folder in (ROOT / "locales").iterdir())
# English stands in the code too, and is what every other language is translated from.
OTHERS = [language for language in LANGUAGES if language != "en"]
SECTION = "comfyGpuOffload"
# What vue-i18n, which the frontend reads nodes' texts with, takes for syntax.
SYNTAX = re.compile(r"[@{}|]")
PLACEHOLDER = re.compile(r"\{\w+\}")


def locale(language: str, name: str) -> Any:
    return json.loads((ROOT / "locales" / language / name).read_text(encoding="utf-8"))


def texts_in(entry: Any) -> list[str]:
    return [entry] if isinstance(entry, str) else [text for part in entry.values() for text in texts_in(part)]


def test_the_languages_have_the_same_files() -> None:
    files = {
        language: sorted(path.name for path in (ROOT / "locales" / language).iterdir()) for language in LANGUAGES
    }
    assert files == {language: ["main.json", "nodeDefs.json"] for language in LANGUAGES}


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_text_of_the_scripts_is_translated_and_no_other(language: str) -> None:
    scripts = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "web").glob("*.js")))
    shown = set(re.findall(r'\btranslate\("([^"]+)"', scripts))
    # Not the declaration, and not CSS.
    assert re.findall(r'\btranslate\((?!"|text, values|\$)', scripts) == [], (
        "only a text that stands there is found"
    )
    translated = locale(language, "main.json")[SECTION]
    assert translated.keys() == shown
    for text, wording in translated.items():
        assert PLACEHOLDER.findall(wording) == PLACEHOLDER.findall(text)


def test_english_is_the_wording_in_the_scripts() -> None:
    assert all(text == wording for text, wording in locale("en", "main.json")[SECTION].items())


@pytest.mark.parametrize("language", OTHERS)
def test_a_translation_leaves_no_text_in_english(language: str) -> None:
    english, translated = locale("en", "nodeDefs.json"), locale(language, "nodeDefs.json")
    assert translated.keys() == english.keys()
    for node, entry in english.items():
        assert set(texts_in(entry)).isdisjoint(texts_in(translated[node]))
    assert locale("en", "main.json").keys() == locale(language, "main.json").keys()


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_frontend_can_read_every_text_of_the_nodes(language: str) -> None:
    assert [text for text in texts_in(locale(language, "nodeDefs.json")) if SYNTAX.search(text)] == []


def test_every_node_has_a_help_page_in_every_language() -> None:
    """ComfyUI shows ``docs/NODE/LANGUAGE.md``, else ``docs/NODE.md``."""
    nodes = locale("en", "nodeDefs.json").keys()
    expected = {f"{node}.md" for node in nodes} | {f"{node}/{language}.md" for node in nodes for language in OTHERS}
    folder = ROOT / "web" / "docs"
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*.md")} == expected


@pytest.mark.parametrize("language", LANGUAGES)
def test_help_pages_name_inputs_as_the_node_shows_them(language: str) -> None:
    for node, entry in locale(language, "nodeDefs.json").items():
        file = f"{node}.md" if language == "en" else f"{node}/{language}.md"
        page = (ROOT / "web" / "docs" / file).read_text(encoding="utf-8")
        assert page.startswith(f"# {entry['display_name']}\n")
        own = locale("en", "nodeDefs.json")[node]["inputs"]
        for name in own:
            assert f"**{entry['inputs'][name]['name']}**" in page


@pytest.mark.parametrize("page", sorted((ROOT / "web" / "docs").rglob("*.md")), ids=lambda page: page.stem)
def test_help_pages_link_to_pages_that_exist(page: Path) -> None:
    base = "https://github.com/comfy-gpu-offload/comfy-gpu-offload/blob/main/"
    links = re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (ROOT / link.removeprefix(base)).is_file()] == []
