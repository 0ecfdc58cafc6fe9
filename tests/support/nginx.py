"""The installed nginx in tests that need it."""

from __future__ import annotations

import pytest
from tests.support.reverse_proxies import Nginx as nginx  # noqa: N813  # a context manager, and a program's name

__all__ = ["needs_nginx", "nginx"]

needs_nginx = pytest.mark.skipif(nginx.installed() is None, reason="nginx is not installed")
