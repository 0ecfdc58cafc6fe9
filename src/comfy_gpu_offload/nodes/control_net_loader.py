"""Remote ControlNet Loader."""

from __future__ import annotations

from typing import Any, ClassVar

from ..comfyui.client import loader, node_lines
from ..comfyui.client.model_lists import CONTROL_NETS
from .routes import listed


class RemoteControlNetLoader:
    """Gives a CONTROL_NET that runs on the configured worker, or the same file loaded here."""

    DESCRIPTION = (
        "Loads a ControlNet or T2I adapter on the worker, for a model from Remote Model Loader. Connect it to "
        "Apply ControlNet. The picture crosses once, and nothing of what the ControlNet computes does: with one "
        "that runs here that is megabytes a step."
    )
    CATEGORY = "loaders/remote"
    FUNCTION = "load"
    RETURN_TYPES = ("CONTROL_NET",)
    OUTPUT_TOOLTIPS = ("The ControlNet, for Apply ControlNet. Works with a model from Remote Model Loader.",)
    SEARCH_ALIASES: ClassVar = ["remote", "offload", "runpod", "controlnet", "control net", "t2i adapter"]

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802  # ComfyUI's name
        """ComfyUI's description of the inputs."""
        return {
            "required": {
                "use_runpod": (
                    "BOOLEAN",
                    {
                        "default": True,
                        "tooltip": "On: the ControlNet runs on the configured worker. Off: the file of the same "
                        "name in this machine's own folders is loaded here.",
                    },
                ),
                "control_net_name": listed(
                    CONTROL_NETS, "A file in the worker's controlnet folder. The button asks again."
                ),
            },
            "hidden": {"unique_id": "UNIQUE_ID"},
        }

    @classmethod
    def VALIDATE_INPUTS(cls, control_net_name: str) -> bool | str:  # noqa: N802  # ComfyUI's name
        """Return True for any name, since the list is the worker's, and what to do where there is none."""
        return (
            True
            if control_net_name
            else "Choose a ControlNet; the button on the node asks the worker for its list."
        )

    @classmethod
    def IS_CHANGED(cls, use_runpod: bool | None = None, **_: Any) -> float:  # noqa: N802  # ComfyUI's name
        """Return another value once the worker, or what was loaded from it, is another."""
        return loader.version(use_runpod)

    def load(self, control_net_name: str, use_runpod: bool, unique_id: str | None = None) -> tuple[Any]:
        """The node's function.

        Raises:
            OffloadError: the ControlNet cannot be had.
        """
        if not use_runpod:
            with node_lines.line("loading the ControlNet on this machine …", unique_id) as line:
                line.result = "on this machine"
                return (loader.load_local_control_net(control_net_name),)
        with node_lines.line("asking the worker for the ControlNet …", unique_id) as line:
            net = loader.load_remote_control_net(control_net_name)
            line.result = f"on the worker{loader.warned(net.remote)}"
        return (net,)
