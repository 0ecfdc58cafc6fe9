"""The size of the pieces in which a connection sends its frames."""

from __future__ import annotations

from typing import Final

LEAST_BYTES: Final = 64 * 1024
MOST_BYTES: Final = 1000 * 1024
_AT_FIRST_BYTES = 256 * 1024
# A cancel waits for the piece under way. Quick ones grow, because each costs both ends a system call and a turn of
# their threads: over loopback a call with 30 MB takes a third longer in pieces of 320 KB.
_LONG_S, _QUICK_S = 0.05, 0.02


class PieceSize:
    """The size of the next piece, by how long the last ones took.

    Attributes:
        bytes: of a payload, at most.
    """

    def __init__(self) -> None:
        self.bytes = _AT_FIRST_BYTES

    def took(self, size_bytes: int, seconds: float) -> None:
        """Note how long it took to hand a piece of that size to the system."""
        if seconds > _LONG_S:
            self.bytes = max(LEAST_BYTES, self.bytes // 2)
        elif seconds < _QUICK_S and size_bytes > self.bytes // 2:
            self.bytes = min(MOST_BYTES, 2 * self.bytes)
