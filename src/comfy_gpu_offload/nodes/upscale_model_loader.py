"""The node Remote Upscale Model Loader: an upscale model whose network runs on the worker."""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from ..comfyui.client import auxiliary_loader, loader
from ..comfyui.client.model_lists import UPSCALE_MODELS
from .inputs import WorkerList
from .loading import is_chosen, load, use_runpod_input

_THING = "upscale model"


class RemoteUpscaleModelLoader(io.ComfyNode):  # type: ignore[misc]  # ComfyUI is untyped
    """An upscale model that runs on the configured worker, or the same file loaded here."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node to ComfyUI."""
        schema = io.Schema(
            node_id="RemoteUpscaleModelLoader",
            display_name="Remote Upscale Model Loader",
            category="loaders/remote",
            description="Loads an upscale model on the worker. Connect it to Upscale Image (using Model), which "
            "then runs there as a whole.",
            inputs=[
                use_runpod_input(_THING),
                WorkerList(
                    "model_name",
                    UPSCALE_MODELS,
                    "A file in the worker's upscale_models folder. The button asks the worker for its list.",
                ),
            ],
            outputs=[io.UpscaleModel.Output(tooltip="The upscale model, for Upscale Image (using Model).")],
            hidden=[io.Hidden.unique_id],
        )
        # ComfyUI 0.3.64 has no such field, and searches no aliases.
        schema.search_aliases = ["remote", "offload", "runpod", "upscale", "esrgan", "super resolution"]
        return schema

    @classmethod
    def validate_inputs(cls, model_name: str) -> bool | str:
        """Return True, or what is wrong with the inputs."""
        return is_chosen(model_name, _THING)

    @classmethod
    def fingerprint_inputs(cls, use_runpod: bool | None = None, **_: object) -> float:
        """Return another value once the worker, or what was loaded from it, is another."""
        return loader.version(use_runpod)

    @classmethod
    def execute(cls, model_name: str, use_runpod: bool) -> io.NodeOutput:
        """Load the upscale model.

        Raises:
            OffloadError: it cannot be loaded.
        """
        return load(
            _THING,
            cls.hidden.unique_id,
            remotely=use_runpod,
            here=lambda: auxiliary_loader.load_local_upscale_model(model_name),
            there=lambda: auxiliary_loader.load_remote_upscale_model(model_name),
        )
