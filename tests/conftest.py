"""What holds for every test, and how they are shared out between pytest-xdist's processes."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.comfyui.harness import checkouts
from tests.web.harness import chromium
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

pytest_plugins = ["tests.comfyui.harness.fixtures", "tests.support.comfy_stand_in.fixtures"]
_IN_COMFYUI = ("tests/comfyui/", "tests/web/")
# The first parameter of a test that runs in a ComfyUI.
_VERSION = re.compile(r"\[(\d+(?:\.\d+)+)[-\]]")


def pytest_report_header() -> list[str]:
    return [checkouts.report(os.environ, Path.home()), chromium.report(os.environ)]


class SharedOut(LoadScopeScheduling):  # type: ignore[misc]
    """A file's tests share servers and models, and all on one ComfyUI share that: each kind stays together."""

    def _split_scope(self, nodeid: str) -> str:
        path, _, test = nodeid.partition("::")
        version = _VERSION.search(test)
        return f"ComfyUI {version[1]}" if version and path.startswith(_IN_COMFYUI) else path


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> SharedOut:
    return SharedOut(config, log)


@pytest.fixture(autouse=True)
def _log_levels() -> Iterator[None]:
    """Commands that run in this process set the root logger's level, as is theirs to do."""
    root = logging.getLogger()
    level = root.level
    yield
    root.setLevel(level)
