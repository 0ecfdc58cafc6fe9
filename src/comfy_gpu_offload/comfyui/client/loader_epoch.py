"""When a loaded remote model is no longer the worker's: ComfyUI keeps a loader's output until it is told so."""

from __future__ import annotations

import threading

_lock = threading.Lock()
_generation = 0


def current() -> int:
    """Return a number that grows each time a worker's model, or the worker itself, has become another."""
    return _generation


def advance() -> None:
    """Has every loader of a remote model run again with the next prompt."""
    global _generation  # noqa: PLW0603  # one for the process, as ComfyUI's cache is
    with _lock:
        _generation += 1
