"""The harness itself: a prompt runs from a page, and what is on the page can be read."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.comfyui.harness.installation import Installation
from tests.comfyui.harness.site import Worker

from .harness.chromium import BrokenBrowserError, find_browser
from .harness.screen import Screen

pytestmark = pytest.mark.comfyui


@pytest.mark.each_release
def test_a_page_opens_without_an_error(screen: Screen) -> None:
    screen.open()
    node = screen.add("RemoteModelLoader")
    assert screen.values(node)["weight_dtype"] == "default"
    screen.wait(lambda: "Remote Model Loader" in screen.drawn(), "the node is drawn")
    assert screen.picture("open").stat().st_size > 10_000
    assert screen.own_errors == []


def test_a_prompt_runs(installation: Installation, worker: Worker, screen: Screen) -> None:
    installation.configure_for(worker)
    screen.open()
    node = screen.add("OffloadTestLatent")
    screen.set(node, "shape", "1,16,8,8")
    save = screen.add("OffloadTestSaveLatent")
    screen.connect(node, save)
    screen.set(save, "name", "from-a-page")
    assert set(screen.prompt()) == {str(node), str(save)}
    assert screen.queue().succeeded
    assert installation.comfyui.saved("from-a-page").shape == (1, 16, 8, 8)


def test_a_browser_is_named_or_found(tmp_path: Path) -> None:
    assert find_browser({"PATH": str(tmp_path)}) is None
    program = tmp_path / "chromium"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert find_browser({"PATH": str(tmp_path)}) == str(program)
    with pytest.raises(BrokenBrowserError, match="no-such-browser"):
        find_browser({"PATH": str(tmp_path), "CHROMIUM": "no-such-browser"})
