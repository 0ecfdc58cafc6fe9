"""Docstrings begin so that a stranger knows at once what a module, a class or a function is."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [
    path
    for folder in ("src", "worker", "benchmarks", "tests")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if not {"build", "dist"} & set(path.relative_to(ROOT).parts)
]
# A clause in place of a noun or a verb ("What a codec is.") makes its reader guess. Ruff's D401 holds the mood of
# functions' docstrings, and passes these.
_CLAUSE = re.compile(r"(What|Whether|How|Which|When|Who|Whose|Where|Why|Of|As|Until|So that)\b")
_LEAST_WORDS = 3


def docstrings(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the name and the docstring of a file's module, classes and functions, where there is one."""
    tree = ast.parse(path.read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text is not None:
                yield getattr(node, "name", "the module"), text


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_docstring_begins_with_a_clause(path: Path) -> None:
    assert [(name, text.splitlines()[0]) for name, text in docstrings(path) if _CLAUSE.match(text)] == []


@pytest.mark.parametrize("path", [path for path in FILES if "tests" not in path.parts], ids=lambda path: path.stem)
def test_every_module_says_what_is_in_it(path: Path) -> None:
    text = ast.get_docstring(ast.parse(path.read_text("utf-8")))
    assert text is not None
    assert len(text.splitlines()[0].split()) >= _LEAST_WORDS
