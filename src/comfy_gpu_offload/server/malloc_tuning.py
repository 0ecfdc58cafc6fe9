"""Settings of glibc's malloc: freed buffers are kept for the next frames."""

from __future__ import annotations

import ctypes
import logging
import sys

logger = logging.getLogger(__name__)

# Parameters of glibc's mallopt(3).
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
# The upper bound of glibc's own dynamic threshold on 64-bit systems; and room for several frames.
_MMAP_BYTES = 32 * 1024**2
_TRIM_BYTES = 512 * 1024**2


def keep_freed_memory() -> None:
    """Make glibc keep freed memory for the next frames; do nothing with other C libraries.

    By default each buffer of a frame's size is mapped and unmapped anew, and touching its pages for the first time
    takes longer than receiving them: with kept memory 4 MB arrive three times as fast
    (benchmarks/call_overhead.py).
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    # A single arena: those that threads get by default return freed memory whatever the threshold.
    wanted = ((_M_MMAP_THRESHOLD, _MMAP_BYTES), (_M_TRIM_THRESHOLD, _TRIM_BYTES), (_M_ARENA_MAX, 1))
    for parameter, value in wanted:
        if not mallopt(parameter, value):
            logger.debug("mallopt refused parameter %d", parameter)
