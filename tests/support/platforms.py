"""Marks of tests that need what not every system has. `without_posix` takes it away."""

from __future__ import annotations

import os
import select

import pytest

needs_posix = pytest.mark.skipif(
    not hasattr(os, "fork"), reason="it needs POSIX: signals that a process answers, file modes, links, named pipes"
)
needs_hang_ups = pytest.mark.skipif(
    not hasattr(select, "POLLRDHUP"), reason="this system does not tell that the other side has hung up"
)
