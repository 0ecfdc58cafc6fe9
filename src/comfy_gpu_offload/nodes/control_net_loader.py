"""The node Remote ControlNet Loader: a CONTROL_NET whose network runs on the worker."""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from ..comfyui.client import loader
from ..comfyui.client.model_lists import CONTROL_NETS
from .inputs import WorkerList
from .loading import is_chosen, load, use_runpod_input


class RemoteControlNetLoader(io.ComfyNode):  # type: ignore[misc]  # ComfyUI is untyped
    """A CONTROL_NET that runs on the configured worker, or the same file loaded here."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node to ComfyUI."""
        schema = io.Schema(
            node_id="RemoteControlNetLoader",
            display_name="Remote ControlNet Loader",
            category="loaders/remote",
            description="Loads a ControlNet or T2I adapter on the worker, for a model from Remote Model Loader. "
            "Connect it to Apply ControlNet. The picture crosses once, and what the ControlNet computes never "
            "does: with one that runs on this machine, that is megabytes a step.",
            inputs=[
                use_runpod_input("ControlNet"),
                WorkerList(
                    "control_net_name",
                    CONTROL_NETS,
                    "A file in the worker's controlnet folder. The button asks the worker for its list.",
                ),
            ],
            outputs=[
                io.ControlNet.Output(
                    tooltip="The ControlNet, for Apply ControlNet. Works with a model from Remote Model Loader."
                )
            ],
            hidden=[io.Hidden.unique_id],
        )
        # ComfyUI 0.3.64 has no such field, and searches no aliases.
        schema.search_aliases = ["remote", "offload", "runpod", "controlnet", "control net", "t2i adapter"]
        return schema

    @classmethod
    def validate_inputs(cls, control_net_name: str) -> bool | str:
        """Return True, or what is wrong with the inputs."""
        return is_chosen(control_net_name, "ControlNet")

    @classmethod
    def fingerprint_inputs(cls, use_runpod: bool | None = None, **_: object) -> float:
        """Return another value once the worker, or what was loaded from it, is another."""
        return loader.version(use_runpod)

    @classmethod
    def execute(cls, control_net_name: str, use_runpod: bool) -> io.NodeOutput:
        """Load the ControlNet.

        Raises:
            OffloadError: the ControlNet cannot be loaded.
        """
        return load(
            "ControlNet",
            cls.hidden.unique_id,
            remotely=use_runpod,
            here=lambda: loader.load_local_control_net(control_net_name),
            there=lambda: loader.load_remote_control_net(control_net_name),
        )
