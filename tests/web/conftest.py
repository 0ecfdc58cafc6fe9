"""Fixtures of tests in a browser: a page of a ComfyUI whose pack is configured by its `.env`, and a worker.

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
from playwright.sync_api import Browser, sync_playwright
from tests.comfyui.harness.checkouts import Checkout
from tests.comfyui.harness.process import Process
from tests.comfyui.harness.site import Worker, await_comfyui, begin_comfyui, install_pack, new_token

from .harness.chromium import NONE_FOUND, find_browser
from .harness.installation import Installation
from .harness.screen import Screen

_SHOWN_LINES = 60
_processes: list[Process] = []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report: pytest.TestReport = yield
    if report.failed:
        for process in _processes:
            tail = "".join(process.lines[-_SHOWN_LINES:])
            report.sections.append((f"{process.name}, its last {_SHOWN_LINES} lines", tail))
    return report


@pytest.fixture(scope="session")
def _comfyui(
    checkout: Checkout, python: Path, models_yaml: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    base = tmp_path_factory.mktemp("comfyui-in-a-browser")
    install_pack(base)
    comfyui = begin_comfyui(checkout, python, base, models_yaml, {})
    try:
        _processes.append(comfyui.process)
        await_comfyui(comfyui)
        yield Installation(comfyui)
    finally:
        comfyui.process.kill()
        _processes.remove(comfyui.process)


@pytest.fixture
def installation(_comfyui: Installation) -> Iterator[Installation]:
    """A ComfyUI that serves all tests on this checkout, with an empty `.env`."""
    _comfyui.configure()
    yield _comfyui
    _comfyui.configure()


@pytest.fixture(scope="session")
def _worker(
    checkout: Checkout, python: Path, models_yaml: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Worker]:
    worker = Worker(checkout, python, tmp_path_factory.mktemp("worker"), models_yaml, new_token())
    worker.begin()
    try:
        worker.await_ready()
        yield worker
    finally:
        worker.stop()


@pytest.fixture
def worker(_worker: Worker) -> Worker:
    """A running worker that serves all tests on this checkout; a test may kill it."""
    if _worker.process.ended:
        _worker.begin()
        _worker.await_ready()
    return _worker


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, for one file's tests: other files' may want an event loop of their own in this thread."""
    program = find_browser(os.environ)
    if program is None:
        pytest.skip(NONE_FOUND)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program)
        yield browser
        browser.close()


@pytest.fixture
def screen(installation: Installation, browser: Browser, tmp_path: Path) -> Iterator[Screen]:
    """A page of its own, with no memory of another test's; `open` it first."""
    context = browser.new_context(viewport={"width": 1400, "height": 900}, locale="en-US")
    yield Screen(context.new_page(), installation, tmp_path)
    context.close()
