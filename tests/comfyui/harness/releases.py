"""The option `--releases`: whether tests run on each ComfyUI release found, or mostly on the newest one."""

from __future__ import annotations

import os
import re
from collections.abc import Container, Sequence
from pathlib import Path

import pytest

from .checkouts import NONE_FOUND, Checkout, find_checkouts

_LEFT_OUT = "releases_left_out"
_left_out: list[int] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--releases",
        choices=("newest", "all"),
        default="all",
        help="ComfyUI releases to test: all that are found, or the newest, and older ones where they differ",
    )


def by_age(checkouts: Sequence[Checkout]) -> list[Checkout]:
    """Return the checkouts from the oldest release to the newest."""
    return sorted(checkouts, key=lambda each: [int(part) for part in re.findall(r"\d+", each.version or "")])


def is_left_out(checkout: Checkout, markers: Container[str], checkouts: Sequence[Checkout]) -> bool:
    """Return whether a test with these markers is left out on that checkout by --releases=newest."""
    oldest, *_, newest = [*checkouts[:1], *checkouts]
    if "each_release" in markers:
        return False
    return checkout != (oldest if "oldest_release" in markers else newest)


def report(chosen: str, checkouts: Sequence[Checkout]) -> str:
    """Return a line that names the releases that tests run on."""
    if not checkouts:
        return f"ComfyUI: {NONE_FOUND}"
    *older, newest = map(str, checkouts)
    if chosen == "newest" and older:
        return f"ComfyUI (--releases=newest): {newest}; where releases differ: {', '.join(older)}"
    return f"ComfyUI: {', '.join([*older, newest])}"


def pytest_report_header(config: pytest.Config) -> str:
    return report(config.getoption("releases"), _found())


def _found() -> list[Checkout]:
    return by_age(find_checkouts(os.environ, Path.home()))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("releases") == "all":
        return
    checkouts = _found()
    kept, dropped = [], []
    for item in items:
        checkout = item.callspec.params.get("checkout") if hasattr(item, "callspec") else None
        markers = {marker.name for marker in item.iter_markers()}
        (dropped if checkout and is_left_out(checkout, markers, checkouts) else kept).append(item)
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = kept
    _left_out.append(len(dropped))
    if hasattr(config, "workeroutput"):  # one of pytest-xdist's processes, whose terminal nobody sees
        config.workeroutput[_LEFT_OUT] = len(dropped)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: object) -> None:
    if (dropped := getattr(node, "workeroutput", {}).get(_LEFT_OUT)) is not None:
        _left_out.append(dropped)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    # Each of pytest-xdist's processes collects, and leaves out, all of them.
    if dropped := max(_left_out, default=0):
        terminalreporter.write_line(
            f"{dropped} tests were left out on one ComfyUI release (--releases=newest); `make test-all` runs them"
        )
