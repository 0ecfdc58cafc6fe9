"""Fixtures of tests in a browser: a page of a ComfyUI.

With `installation` and `worker` of tests/comfyui/harness/fixtures.py:

    def test_something(installation: Installation, worker: Worker, screen: Screen) -> None:
        installation.configure_for(worker)
        screen.open()
        screen.load(json.loads(...))
        assert screen.queue().succeeded
        assert screen.values(1)["model_name"] == "digits.safetensors"

Playwright's event loop runs in this thread as long as the browser is open, so nothing here may call `asyncio.run`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, sync_playwright
from tests.comfyui.harness.installation import Installation

from .harness.chromium import NONE_FOUND, find_browser
from .harness.screen import Screen

# A name on the internet that has this machine's address, as an attacker's can (DNS rebinding).
_ARGUMENTS = ["--host-resolver-rules=MAP rebound.example 127.0.0.1"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, for one file's tests: other files' may want an event loop of their own in this thread."""
    program = find_browser(os.environ)
    if program is None:
        pytest.skip(NONE_FOUND)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=_ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def context(browser: Browser) -> Iterator[BrowserContext]:
    """Give a profile for one file's tests: its cache saves each of them the frontend's megabytes of script."""
    context = browser.new_context(viewport={"width": 1400, "height": 900}, locale="en-US")
    yield context
    context.close()


@pytest.fixture(scope="module")
def _kept() -> dict[str, Screen]:
    """Return the open page that a file's tests share, by its ComfyUI's address."""
    return {}


@pytest.fixture
def screen(
    request: pytest.FixtureRequest,
    installation: Installation,
    context: BrowserContext,
    tmp_path: Path,
    _kept: dict[str, Screen],
) -> Iterator[Screen]:
    """Give a page with no memory of another test's; `open` it first.

    A page takes seconds to open. Tests marked `shared_page` use the one of the test before, emptied, unless they
    are marked `new_page` too, that one failed, or they open it with other settings.
    """
    marked = {marker.name for marker in request.node.iter_markers()}
    shared = _kept.pop(installation.url, None)
    if shared is None or "shared_page" not in marked or "new_page" in marked:
        shared = _new_screen(context, installation, tmp_path)
    else:
        shared.reuse(tmp_path)
    failed = request.session.testsfailed
    yield shared
    if "shared_page" in marked and request.session.testsfailed == failed:
        _kept[installation.url] = shared
    for page in context.pages:
        if all(page != each.page for each in _kept.values()):
            page.close()


def _new_screen(context: BrowserContext, installation: Installation, pictures: Path) -> Screen:
    for page in context.pages:
        page.close()  # it would ask, and show, what this test alone is to
    page = context.new_page()
    forget = {"origin": installation.url, "storageTypes": "cookies,local_storage,indexeddb"}
    context.new_cdp_session(page).send("Storage.clearDataForOrigin", forget)
    return Screen(page, installation, pictures)
