"""Fixtures for every test, and the distribution of tests among pytest-xdist's processes."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Iterator

import pytest
from tests.support import prism
from tests.web.harness import chromium
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

pytest_plugins = [
    "tests.comfyui.harness.fixtures",
    "tests.comfyui.harness.releases",
    "tests.support.comfy_stand_in.fixtures",
]
# The parameter of a test that runs in a ComfyUI.
_VERSION = re.compile(r"[\[-](\d+\.\d+\.\d+)[-\]]")
# Tests of one release share what takes long to start: a ComfyUI with a worker, a ComfyUI for pages, or small models
# for scripts.
_SCRIPTS = frozenset(
    f"tests/comfyui/test_{name}.py"
    for name in (
        "changed_network",
        "matrix",
        "own_code",
        "patch_forms",
        "requirements",
        "sampling_jobs",
        "two_releases",
        "weight_readers",
        "worker_interpreter",
    )
)
_PAGES = ("tests/web/", "tests/comfyui/test_worker_sessions.py", "tests/comfyui/test_waiting.py")
_OF_COMFYUI = ("prompts", "scripts", "page")  # by how long they take


def pytest_report_header() -> list[str]:
    return [chromium.report(os.environ), prism.report()]


def scope_of(nodeid: str) -> str:
    """Return the name of the tests that run in one process with that one, one after the other."""
    path, _, test = nodeid.partition("::")
    version = _VERSION.search(test)
    if version is None or not path.startswith(("tests/comfyui/", "tests/web/")):
        return path
    shared = "scripts" if path in _SCRIPTS else "page" if path.startswith(_PAGES) else "prompts"
    return f"ComfyUI {version[1]}: {shared}"


def _order(scope: str, number: int) -> tuple[list[int], int]:
    """Return a sorting key that puts first what takes longest: the newest ComfyUI's, then files with many tests."""
    release, _, shared = scope.removeprefix("ComfyUI ").partition(": ")
    if not shared:
        return [1], -number
    return [-int(part) for part in release.split(".")], _OF_COMFYUI.index(shared)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):  # one of pytest-xdist's processes
        numbers = Counter(scope_of(item.nodeid) for item in items)
        items.sort(key=lambda item: _order(scope := scope_of(item.nodeid), numbers[scope]))


class SharedOut(LoadScopeScheduling):  # type: ignore[misc]
    """Tests that share servers or models run in one process, and what takes longest begins first."""

    def _split_scope(self, nodeid: str) -> str:
        return scope_of(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> SharedOut:
    config.option.loadscopereorder = False  # by number of tests alone
    return SharedOut(config, log)


@pytest.fixture(autouse=True)
def _log_levels() -> Iterator[None]:
    """Commands that run in this process set the root logger's level, as is theirs to do."""
    root = logging.getLogger()
    level = root.level
    yield
    root.setLevel(level)
