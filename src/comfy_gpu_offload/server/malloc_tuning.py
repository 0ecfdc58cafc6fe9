"""How the worker's process takes and returns memory."""

from __future__ import annotations

import ctypes
import logging
import sys

logger = logging.getLogger(__name__)

# Parameters of glibc's mallopt(3).
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
# glibc's own upper bound of the dynamic threshold on 64-bit systems, and a few frames' worth above it.
_MMAP_BYTES = 32 * 1024**2
_TRIM_BYTES = 512 * 1024**2


def keep_freed_memory() -> None:
    """Has glibc keep what frames and chunks free, for the next ones.

    By default each buffer of a frame's size is mapped and unmapped anew, and touching its pages for the first
    time costs more than receiving them: 4 MB arrive three times faster so (benchmarks/call_overhead.py). Does
    nothing with other C libraries.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    # One arena: the others, which threads get by default, give freed memory back whatever the threshold.
    wanted = ((_M_MMAP_THRESHOLD, _MMAP_BYTES), (_M_TRIM_THRESHOLD, _TRIM_BYTES), (_M_ARENA_MAX, 1))
    for parameter, value in wanted:
        if not mallopt(parameter, value):
            logger.debug("mallopt refused parameter %d", parameter)
