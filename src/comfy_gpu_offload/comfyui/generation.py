"""When a loaded remote model is no longer the worker's: ComfyUI keeps a loader's output until it is told so."""

from __future__ import annotations

import threading

_lock = threading.Lock()
_generation = 0


def current() -> int:
    """Grows each time a worker said that its model is another now; part of the loader's `IS_CHANGED`."""
    return _generation


def advance() -> None:
    """Has every loader of a remote model run again with the next prompt."""
    global _generation  # noqa: PLW0603  # one for the process, as ComfyUI's cache is
    with _lock:
        _generation += 1
