"""Run the heavy networks of ComfyUI and diffusers on somebody else's GPU, and all else here.

session = comfy_gpu_offload.connect("http://127.0.0.1:8288")
pipe.transformer = session.model("my-transformer")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .version import __version__

if TYPE_CHECKING:
    from .client.connect import connect
    from .client.remote_model import RemoteModel
    from .client.session import Session
    from .shared_worker import SharedWorker, share

__all__ = ["RemoteModel", "Session", "SharedWorker", "__version__", "connect", "share"]

# Imported when they are asked for: the command line must be able to say that a requirement, torch say, is missing.
_MODULES = {
    "connect": ".client.connect",
    "RemoteModel": ".client.remote_model",
    "Session": ".client.session",
    "share": ".shared_worker",
    "SharedWorker": ".shared_worker",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name], __name__), name)
