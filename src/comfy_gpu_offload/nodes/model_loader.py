"""Remote Model Loader."""

from __future__ import annotations

from typing import Any, ClassVar

from ..comfyui.client import loader, node_lines
from ..comfyui.client.model_lists import MODELS
from .routes import listed


class RemoteModelLoader:
    """Gives a MODEL whose forward pass runs on the configured worker, or the same file loaded here."""

    DESCRIPTION = (
        "Loads a diffusion model on a GPU elsewhere: its forward pass runs there, and everything else stays "
        "here. Connect it to any sampler. The worker is the one that the pack's .env names: an address, or a "
        "RunPod endpoint."
    )
    CATEGORY = "loaders/remote"
    FUNCTION = "load"
    RETURN_TYPES = ("MODEL",)
    OUTPUT_TOOLTIPS = ("The model, for any sampler. No weights of a remote model are on this machine.",)
    SEARCH_ALIASES: ClassVar = ["remote", "offload", "runpod", "gpu", "load diffusion model", "unet loader"]

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802  # ComfyUI's name
        """ComfyUI's description of the inputs."""
        return {
            "required": {
                "use_runpod": (
                    "BOOLEAN",
                    {
                        "default": True,
                        "tooltip": "On: the model runs on the configured worker. Off: the file of the same name "
                        "in this machine's own folders is loaded here.",
                    },
                ),
                "weight_dtype": (
                    ["default", "fp8_e4m3fn", "fp8_e4m3fn_fast", "fp8_e5m2"],
                    {
                        "tooltip": "How the weights are kept, as in Load Diffusion Model. fp8 halves the memory "
                        "they take and changes pictures."
                    },
                ),
                "model_name": listed(
                    MODELS, "A model in the worker's diffusion_models or checkpoints folder. The button asks again."
                ),
            },
            "hidden": {"unique_id": "UNIQUE_ID"},
        }

    @classmethod
    def VALIDATE_INPUTS(cls, model_name: str) -> bool | str:  # noqa: N802  # ComfyUI's name
        """Return True for any name, since the list is the worker's, and what to do where there is none."""
        return True if model_name else "Choose a model; the button on the node asks the worker for its list."

    @classmethod
    def IS_CHANGED(cls, use_runpod: bool | None = None, **_: Any) -> float:  # noqa: N802  # ComfyUI's name
        """Return another value once the worker, or what was loaded from it, is another."""
        return loader.version(use_runpod)

    def load(
        self, model_name: str, use_runpod: bool, weight_dtype: str, unique_id: str | None = None
    ) -> tuple[Any]:
        """The node's function.

        Raises:
            OffloadError: the model cannot be had.
        """
        if not use_runpod:
            with node_lines.line("loading the model on this machine …", unique_id) as line:
                line.result = "on this machine"
                return (loader.load_local(model_name, weight_dtype),)
        with node_lines.line("asking the worker for the model …", unique_id) as line:
            patcher = loader.load_remote(model_name, weight_dtype)
            dtype = patcher.remote.description.compute_dtype
            line.result = f"on the worker, computing in {dtype}{loader.warned(patcher.remote)}"
        return (patcher,)
