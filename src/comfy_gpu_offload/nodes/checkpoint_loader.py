"""The node Remote Checkpoint Loader: MODEL, CLIP and VAE of one file, all at the worker."""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from ..client.remote_model import RemoteModel
from ..comfyui.client import loader
from ..comfyui.client.model_lists import CHECKPOINTS
from .inputs import WorkerList
from .loading import is_chosen, load, use_runpod_input


class RemoteCheckpointLoader(io.ComfyNode):  # type: ignore[misc]  # ComfyUI is untyped
    """MODEL, CLIP and VAE of a checkpoint that run on the configured worker, or the same file loaded here."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node to ComfyUI."""
        schema = io.Schema(
            node_id="RemoteCheckpointLoader",
            display_name="Remote Checkpoint Loader",
            category="loaders/remote",
            description="Loads a checkpoint on the worker, in place of Load Checkpoint: its model, its text "
            "encoder and its VAE all run there, and none of its weights is on this machine.",
            inputs=[
                use_runpod_input("checkpoint"),
                WorkerList(
                    "ckpt_name",
                    CHECKPOINTS,
                    "A file in the worker's checkpoints folder. The button asks the worker for its list.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The model, for any sampler."),
                io.Clip.Output(tooltip="The CLIP, for any text encode node. None if the file has no text encoder."),
                io.Vae.Output(tooltip="The VAE, for any node that takes one."),
            ],
            hidden=[io.Hidden.unique_id],
        )
        # ComfyUI 0.3.64 has no such field, and searches no aliases.
        schema.search_aliases = ["remote", "offload", "runpod", "checkpoint", "load checkpoint", "ckpt", "model"]
        return schema

    @classmethod
    def validate_inputs(cls, ckpt_name: str) -> bool | str:
        """Return True, or what is wrong with the inputs."""
        return is_chosen(ckpt_name, "checkpoint")

    @classmethod
    def fingerprint_inputs(cls, use_runpod: bool | None = None, **_: object) -> float:
        """Return another value once the worker, or what was loaded from it, is another."""
        return loader.version(use_runpod)

    @classmethod
    def execute(cls, ckpt_name: str, use_runpod: bool) -> io.NodeOutput:
        """Load the checkpoint.

        Raises:
            OffloadError: it cannot be loaded.
        """
        return load(
            "checkpoint",
            cls.hidden.unique_id,
            remotely=use_runpod,
            here=lambda: loader.load_local_checkpoint(ckpt_name),
            there=lambda: loader.load_remote_checkpoint(ckpt_name),
            details=_computing_in,
            remote_of=lambda parts: parts[0].remote,
        )


def _computing_in(remote: RemoteModel) -> str:
    return f", computing in {remote.description.compute_dtype}"
