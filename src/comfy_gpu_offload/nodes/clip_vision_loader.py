"""The node Remote CLIP Vision Loader: a CLIP vision model whose network runs on the worker."""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from ..comfyui.client import auxiliary_loader, loader
from ..comfyui.client.model_lists import CLIP_VISIONS
from .inputs import WorkerList
from .loading import is_chosen, load, use_runpod_input

_THING = "CLIP vision model"


class RemoteCLIPVisionLoader(io.ComfyNode):  # type: ignore[misc]  # ComfyUI is untyped
    """A CLIP vision model that runs on the configured worker, or the same file loaded here."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node to ComfyUI."""
        schema = io.Schema(
            node_id="RemoteCLIPVisionLoader",
            display_name="Remote CLIP Vision Loader",
            category="loaders/remote",
            description="Loads a CLIP vision model (CLIP, SigLIP, DINO) on the worker: pictures are encoded there. "
            "Connect it wherever a CLIP vision model goes: unCLIP, Redux, image to video, image prompts.",
            inputs=[
                use_runpod_input(_THING),
                WorkerList(
                    "clip_name",
                    CLIP_VISIONS,
                    "A file in the worker's clip_vision folder, or the image encoder of a checkpoint that has one "
                    "(unCLIP, Stable Video Diffusion). The button asks the worker for its list.",
                ),
            ],
            outputs=[io.ClipVision.Output(tooltip="The CLIP vision model, for any node that takes one.")],
            hidden=[io.Hidden.unique_id],
        )
        # ComfyUI 0.3.64 has no such field, and searches no aliases.
        schema.search_aliases = ["remote", "offload", "runpod", "clip vision", "siglip", "image encoder", "redux"]
        return schema

    @classmethod
    def validate_inputs(cls, clip_name: str) -> bool | str:
        """Return True, or what is wrong with the inputs."""
        return is_chosen(clip_name, _THING)

    @classmethod
    def fingerprint_inputs(cls, use_runpod: bool | None = None, **_: object) -> float:
        """Return another value once the worker, or what was loaded from it, is another."""
        return loader.version(use_runpod)

    @classmethod
    def execute(cls, clip_name: str, use_runpod: bool) -> io.NodeOutput:
        """Load the CLIP vision model.

        Raises:
            OffloadError: it cannot be loaded.
        """
        return load(
            _THING,
            cls.hidden.unique_id,
            remotely=use_runpod,
            here=lambda: auxiliary_loader.load_local_clip_vision(clip_name),
            there=lambda: auxiliary_loader.load_remote_clip_vision(clip_name),
        )
