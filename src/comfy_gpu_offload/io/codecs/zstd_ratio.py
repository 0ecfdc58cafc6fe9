"""The largest ratio by which Zstandard can shrink data: a payload cannot decode to more."""

from __future__ import annotations

from typing import Final

MAX_RATIO: Final = 128 * 1024 // 4
"""A block holds at most 128 KiB and takes at least four bytes (RFC 8878, 3.1.1.2)."""
