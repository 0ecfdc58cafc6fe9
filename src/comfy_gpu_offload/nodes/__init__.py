"""The nodes, as ComfyUI looks for them."""

from __future__ import annotations

from ..comfyui.client.changes import loaded_code
from . import findings_route, routes
from .control_net_loader import RemoteControlNetLoader
from .model_loader import RemoteModelLoader
from .sampler import RemoteSampler

NODE_CLASS_MAPPINGS = {
    "RemoteModelLoader": RemoteModelLoader,
    "RemoteControlNetLoader": RemoteControlNetLoader,
    "RemoteSampler": RemoteSampler,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "RemoteModelLoader": "Remote Model Loader",
    "RemoteControlNetLoader": "Remote ControlNet Loader",
    "RemoteSampler": "Remote Sampler",
}

routes.register()
findings_route.register()
loaded_code.remember_before_prompts()

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
