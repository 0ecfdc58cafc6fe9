"""Run only the diffusion model's forward pass on somebody else's GPU.

session = comfy_gpu_offload.connect("http://127.0.0.1:8288")
pipe.transformer = session.model("my-transformer")
"""

from __future__ import annotations

from .client.connect import connect
from .client.remote_model import RemoteModel
from .client.session import Session
from .version import __version__

__all__ = ["RemoteModel", "Session", "__version__", "connect"]
