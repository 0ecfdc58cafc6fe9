"""What holds for every test."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _log_levels() -> Iterator[None]:
    """Commands run in this process set the root logger's level, as is theirs to do; the next test has the old one."""
    root = logging.getLogger()
    level = root.level
    yield
    root.setLevel(level)
