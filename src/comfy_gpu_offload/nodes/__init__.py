"""The pack's nodes, as ComfyUI's V3 API takes them, and the routes that its pages ask."""

from __future__ import annotations

# The first numbered API with V3 nodes, which every supported release has: `latest` may change with any release.
from comfy_api.v0_0_2 import ComfyExtension, io

from ..comfyui.client.changes import loaded_code
from . import fetch_route, findings_route, routes
from .audio_encoder_loader import RemoteAudioEncoderLoader
from .checkpoint_loader import RemoteCheckpointLoader
from .clip_vision_loader import RemoteCLIPVisionLoader
from .control_net_loader import RemoteControlNetLoader
from .model_loader import RemoteModelLoader
from .sampler import RemoteSampler
from .text_encoder_loaders import (
    RemoteCLIPLoader,
    RemoteDualCLIPLoader,
    RemoteQuadrupleCLIPLoader,
    RemoteTripleCLIPLoader,
)
from .upscale_model_loader import RemoteUpscaleModelLoader
from .vae_loader import RemoteVAELoader


class RemoteNodes(ComfyExtension):  # type: ignore[misc]  # ComfyUI is untyped
    """The list of the pack's nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Return the node classes."""
        return [
            RemoteCheckpointLoader,
            RemoteModelLoader,
            RemoteControlNetLoader,
            RemoteCLIPLoader,
            RemoteDualCLIPLoader,
            RemoteTripleCLIPLoader,
            RemoteQuadrupleCLIPLoader,
            RemoteVAELoader,
            RemoteCLIPVisionLoader,
            RemoteUpscaleModelLoader,
            RemoteAudioEncoderLoader,
            RemoteSampler,
        ]


async def comfy_entrypoint() -> RemoteNodes:
    """Return the pack's nodes, once the routes are added to ComfyUI's server. ComfyUI calls this when it starts."""
    routes.register()
    findings_route.register()
    fetch_route.register()
    loaded_code.remember_before_prompts()
    return RemoteNodes()


__all__ = ["comfy_entrypoint"]
