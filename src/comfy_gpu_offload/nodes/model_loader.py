"""The node Remote Model Loader: a MODEL whose network runs on the worker."""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from ..client.remote_model import RemoteModel
from ..comfyui.client import loader
from ..comfyui.client.model_lists import MODELS
from .inputs import StockInput, WorkerList
from .loading import is_chosen, load, use_runpod_input

_WEIGHT_DTYPES = ("default", "fp8_e4m3fn", "fp8_e4m3fn_fast", "fp8_e5m2")


class RemoteModelLoader(io.ComfyNode):  # type: ignore[misc]  # ComfyUI is untyped
    """A MODEL whose forward pass runs on the configured worker, or the same file loaded here."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node to ComfyUI."""
        schema = io.Schema(
            node_id="RemoteModelLoader",
            display_name="Remote Model Loader",
            category="loaders/remote",
            description="Loads a diffusion model on a GPU elsewhere: its forward pass runs there, and everything "
            "else stays on this machine. Connect it to any sampler. The worker is set in the pack's .env file: an "
            "address, or a RunPod endpoint.",
            inputs=[
                use_runpod_input("model"),
                StockInput(
                    "weight_dtype",
                    _WEIGHT_DTYPES,
                    {
                        "tooltip": "The type that the weights are kept in, as in Load Diffusion Model. fp8 halves "
                        "the memory that they take, and changes pictures."
                    },
                ),
                WorkerList(
                    "model_name",
                    MODELS,
                    "A model in the worker's diffusion_models or checkpoints folder. The button asks the worker "
                    "for its list.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    tooltip="The model, for any sampler. A remote model's weights are never on this machine."
                )
            ],
            hidden=[io.Hidden.unique_id],
        )
        # ComfyUI 0.3.64 has no such field, and searches no aliases.
        schema.search_aliases = ["remote", "offload", "runpod", "gpu", "load diffusion model", "unet loader"]
        return schema

    @classmethod
    def validate_inputs(cls, model_name: str) -> bool | str:
        """Return True, or what is wrong with the inputs."""
        return is_chosen(model_name, "model")

    @classmethod
    def fingerprint_inputs(cls, use_runpod: bool | None = None, **_: object) -> float:
        """Return another value once the worker, or what was loaded from it, is another."""
        return loader.version(use_runpod)

    @classmethod
    def execute(cls, model_name: str, use_runpod: bool, weight_dtype: str) -> io.NodeOutput:
        """Load the model.

        Raises:
            OffloadError: the model cannot be loaded.
        """
        return load(
            "model",
            cls.hidden.unique_id,
            remotely=use_runpod,
            here=lambda: loader.load_local(model_name, weight_dtype),
            there=lambda: loader.load_remote(model_name, weight_dtype),
            details=_computing_in,
        )


def _computing_in(remote: RemoteModel) -> str:
    return f", computing in {remote.description.compute_dtype}"
