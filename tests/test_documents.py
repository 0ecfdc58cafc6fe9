"""The documents agree with each other and with the code: links, settings, messages and paths that they name."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PACKAGE = ROOT / "src" / "comfy_gpu_offload"
PAGES = sorted(
    page for pattern in ("*.md", "docs/**/*.md", "worker/*.md", "web/**/*.md") for page in ROOT.glob(pattern)
)
# A page whose text is copied into another folder has links that start there.
TEMPLATES = {ROOT / "benchmarks" / "report_template.md": DOCS}
# Folders that the documents name files in, each relative to one of these.
PATH_BASES = (ROOT, PACKAGE, ROOT / "tests" / "comfyui")

_FENCE = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`[^`\n]+`")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)
_PATH = re.compile(r"`((?:[\w.-]+/)+[\w.-]+\.(?:py|md|js|json|png|txt))`")
_SETTING = re.compile(r"^\| `([A-Z_]+)` \| (?:`(.*?)`)? ?\|", re.MULTILINE)


def prose(page: Path) -> str:
    return _FENCE.sub("", page.read_text("utf-8"))


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub names them."""
    names: list[str] = []
    for heading in _HEADING.findall(prose(page)):
        words = re.sub(r"[^\w\- ]", "", _LINK.sub("", heading).lower())
        name = words.strip().replace(" ", "-")
        names.append(f"{name}-{names.count(name)}" if name in names else name)
    return set(names)


def broken_links(page: Path, base: Path) -> list[str]:
    broken = []
    for link in _LINK.findall(_CODE.sub("", prose(page))):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (base / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", [*PAGES, *TEMPLATES], ids=lambda page: page.relative_to(ROOT).as_posix())
def test_no_link_is_broken(page: Path) -> None:
    assert broken_links(page, TEMPLATES.get(page, page.parent)) == []


def test_a_broken_link_or_anchor_is_noticed(tmp_path: Path) -> None:
    page, other = tmp_path / "a.md", tmp_path / "b.md"
    other.write_text("# One `two` three\n")
    page.write_text("[x](b.md#one-two-three) [x](b.md#four) [x](c.md) ![x](d.png) `[x](e.md)` [x](https://f)\n")
    assert broken_links(page, tmp_path) == ["b.md#four", "c.md", "d.png"]


def test_the_index_lists_every_page() -> None:
    listed = {(DOCS / link).resolve() for link in _LINK.findall((DOCS / "README.md").read_text())}
    assert set(DOCS.glob("**/*.md")) - {DOCS / "README.md"} <= listed


def test_the_page_of_settings_has_every_setting_with_its_default() -> None:
    lines = (ROOT / ".env.example").read_text().splitlines()
    settings = [line.partition("=") for line in lines if line and not line.startswith("#")]
    rows = _SETTING.findall((DOCS / "use" / "settings.md").read_text())
    assert len(rows) == len(settings)
    assert dict(rows) == {name: default for name, _, default in settings}


_MESSAGE_ROW = re.compile(r"^\| `(\w+)` \| (client|worker) \| (.+?) \| (.+?) \|$", re.MULTILINE)


def test_the_page_of_the_protocol_lists_every_message_with_its_sender_and_fields() -> None:
    from comfy_gpu_offload.protocol.messages import KINDS, ClientMessage

    rows = {kind: (sender, fields) for kind, sender, fields, _ in _MESSAGE_ROW.findall(prose(DOCS / "protocol.md"))}
    assert rows.keys() == KINDS.keys()
    for kind, model in KINDS.items():
        sender, fields = rows[kind]
        assert sender == ("client" if issubclass(model, ClientMessage) else "worker")
        listed = set(re.findall(r"`(\w+)`", fields.partition(":")[0]))
        assert listed == model.model_fields.keys() - {"type"}, kind


def test_the_messages_in_troubleshooting_are_those_of_the_code() -> None:
    said = "\n".join(text for path in sorted(PACKAGE.rglob("*.py")) for text in texts(path))
    rows = [line for line in prose(DOCS / "use" / "troubleshooting.md").splitlines() if line.startswith("| `")]
    assert len(rows) > 10
    for row in rows:
        quoted = [
            part.strip(" ,") for code in _CODE.findall(row.split("|")[1]) for part in code.strip("`").split("…")
        ]
        # An ellipsis stands for what differs; words as short as "here and" prove nothing.
        longer = [part for part in quoted if len(part) > 8]
        assert longer, row
        assert [part for part in longer if part not in said] == [], row


def texts(path: Path) -> list[str]:
    """Return the strings of a module, with those that Python joins as one."""
    return [
        node.value
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_files_that_a_page_names_are_there(page: Path) -> None:
    named = set(_PATH.findall(prose(page)))
    assert {name for name in named if not any((base / name).exists() for base in PATH_BASES)} == set()


def test_the_changelog_has_the_categories_of_its_form() -> None:
    titles = re.findall(r"^### (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert set(titles) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
