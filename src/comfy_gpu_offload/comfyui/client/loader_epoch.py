"""The counter by which ComfyUI learns that loaded remote models are outdated, so that their loaders run again.

ComfyUI keeps a node's output until its inputs or its `fingerprint_inputs` differ.
The counter is part of the latter.
"""

from __future__ import annotations

import threading

_lock = threading.Lock()
_epoch = 0


def current() -> int:
    """Return a number that is larger after each event by which loaded models became outdated."""
    return _epoch


def advance() -> None:
    """Have every loader of a remote model run again with the next prompt."""
    global _epoch  # noqa: PLW0603  # one for the process, as ComfyUI's cache is
    with _lock:
        _epoch += 1
