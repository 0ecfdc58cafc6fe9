"""What holds for every test."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _log_levels() -> Iterator[None]:
    """Commands that run in this process set the root logger's level, as is theirs to do."""
    root = logging.getLogger()
    level = root.level
    yield
    root.setLevel(level)
