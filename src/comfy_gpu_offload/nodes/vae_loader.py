"""The node Remote VAE Loader: a VAE whose network runs on the worker."""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from ..client.remote_model import RemoteModel
from ..comfyui.client import loader
from ..comfyui.client.model_lists import VAES
from .inputs import WorkerList
from .loading import is_chosen, load, use_runpod_input


class RemoteVAELoader(io.ComfyNode):  # type: ignore[misc]  # ComfyUI is untyped
    """A VAE that runs on the configured worker, or the same file loaded here."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node to ComfyUI."""
        schema = io.Schema(
            node_id="RemoteVAELoader",
            display_name="Remote VAE Loader",
            category="loaders/remote",
            description="Loads a VAE on the worker. Connect it wherever a VAE goes: pictures, videos and sound are "
            "encoded and decoded there.",
            inputs=[
                use_runpod_input("VAE"),
                WorkerList(
                    "vae_name",
                    VAES,
                    "A file in the worker's vae folder, or a small VAE in its vae_approx folder (taesd). The "
                    "button asks the worker for its list.",
                ),
            ],
            outputs=[io.Vae.Output(tooltip="The VAE, for any node that takes one.")],
            hidden=[io.Hidden.unique_id],
        )
        # ComfyUI 0.3.64 has no such field, and searches no aliases.
        schema.search_aliases = ["remote", "offload", "runpod", "vae", "load vae", "decode", "taesd"]
        return schema

    @classmethod
    def validate_inputs(cls, vae_name: str) -> bool | str:
        """Return True, or what is wrong with the inputs."""
        return is_chosen(vae_name, "VAE")

    @classmethod
    def fingerprint_inputs(cls, use_runpod: bool | None = None, **_: object) -> float:
        """Return another value once the worker, or what was loaded from it, is another."""
        return loader.version(use_runpod)

    @classmethod
    def execute(cls, vae_name: str, use_runpod: bool) -> io.NodeOutput:
        """Load the VAE.

        Raises:
            OffloadError: the VAE cannot be loaded.
        """
        return load(
            "VAE",
            cls.hidden.unique_id,
            remotely=use_runpod,
            here=lambda: loader.load_local_vae(vae_name),
            there=lambda: loader.load_remote_vae(vae_name),
            details=_computing_in,
        )


def _computing_in(remote: RemoteModel) -> str:
    return f", computing in {remote.description.compute_dtype}"
