"""How far Zstandard can shrink anything: what a payload may be asked to decode to."""

from __future__ import annotations

from typing import Final

MAX_RATIO: Final = 128 * 1024 // 4
"""A block is at most 128 KiB and takes at least four bytes (RFC 8878, 3.1.1.2)."""
