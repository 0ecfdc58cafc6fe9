"""The release of this ComfyUI, compared with the worker's."""

from __future__ import annotations

import importlib


def here() -> str | None:
    """Return the version of this ComfyUI, or None where it does not say."""
    try:
        return str(importlib.import_module("comfyui_version").__version__)
    except (ImportError, AttributeError):
        return None


def difference(worker: str | None) -> str | None:
    """Return both versions in words where the worker's is another; None where it is not, or is not known."""
    ours = here()
    if ours is None or worker is None or ours == worker:
        return None
    return f"ComfyUI is {ours} here and {worker} at the worker, and a seed may give another picture there"
