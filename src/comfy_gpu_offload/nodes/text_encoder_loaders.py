"""The nodes Remote CLIP Loader, Dual, Triple and Quadruple: a CLIP whose text encoder runs on the worker."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from comfy_api.v0_0_2 import io

from ..comfyui.client import loader
from ..comfyui.client.model_lists import TEXT_ENCODERS
from .inputs import StockInput, WorkerList
from .loading import is_chosen, load, use_runpod_input

_THING = "text encoder"
_DEVICES = ("default", "cpu")
_ALIASES = ["remote", "offload", "runpod", "clip", "text encoder", "t5"]


def _schema(node_id: str, display_name: str, stock: str | None, names: Sequence[str], number: str) -> io.Schema:
    """Describe a loader to ComfyUI.

    Args:
        stock: the name of ComfyUI's own node with the same choices of a type and a device; None where it has none.
        names: of the inputs for files.
        number: of the files, in words.
    """
    schema = io.Schema(
        node_id=node_id,
        display_name=display_name,
        category="loaders/remote",
        description=f"Loads a CLIP from {number} on the worker: prompts are encoded there. Tokens are made on this "
        "machine, so textual inversion works, and LoRA, hooks and CLIP Set Last Layer work as on a local CLIP.",
        inputs=[
            use_runpod_input(_THING),
            *([] if stock is None else _choices(stock)),
            *(
                WorkerList(
                    name,
                    TEXT_ENCODERS,
                    "A file in the worker's text_encoders folder. The button asks the worker for its list.",
                )
                for name in names
            ),
        ],
        outputs=[
            io.Clip.Output(tooltip="The CLIP, for any text encode node. Its weights are never on this machine.")
        ],
        hidden=[io.Hidden.unique_id],
    )
    # ComfyUI 0.3.64 has no such field, and searches no aliases.
    schema.search_aliases = _ALIASES
    return schema


def _choices(stock: str) -> list[StockInput]:
    """Return the choices of a type and a device of ComfyUI's own node, which differ between its releases."""
    types = getattr(importlib.import_module("nodes"), stock).INPUT_TYPES()["required"]["type"][0]
    tooltip = "The kind of model that the text encoder is for, as in ComfyUI's own loader."
    on_cpu = "cpu: the worker computes on its CPU, as with ComfyUI's own loader on its machine."
    return [
        StockInput("type", types, {"tooltip": tooltip}),
        StockInput("device", _DEVICES, {"default": "default", "tooltip": on_cpu}, optional=True),
    ]


def _chosen(*names: str) -> bool | str:
    """Return True if each name is one, or what is wrong."""
    return next((said for said in (is_chosen(name, _THING) for name in names) if said is not True), True)


class _ClipLoader(io.ComfyNode):  # type: ignore[misc]  # ComfyUI is untyped
    """The base of the four loaders."""

    @classmethod
    def fingerprint_inputs(cls, use_runpod: bool | None = None, **_: object) -> float:
        """Return another value once the worker, or what was loaded from it, is another."""
        return loader.version(use_runpod)

    @classmethod
    def load(
        cls,
        names: tuple[str, ...],
        type: str = "stable_diffusion",  # noqa: A002  # the input's name
        device: str = "default",
        *,
        remotely: bool,
    ) -> io.NodeOutput:
        """Load the CLIP.

        Args:
            names: of its files.
            type, device: choices of ComfyUI's own loaders, and what those without choices take.
            remotely: whether from the worker.

        Raises:
            OffloadError: it cannot be loaded.
        """
        return load(
            _THING,
            cls.hidden.unique_id,
            remotely=remotely,
            here=lambda: loader.load_local_clip(names, type, device),
            there=lambda: loader.load_remote_clip(names, type, device),
            remote_of=lambda clip: clip.patcher.remote,
        )


class RemoteCLIPLoader(_ClipLoader):
    """A CLIP of one file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node to ComfyUI."""
        return _schema("RemoteCLIPLoader", "Remote CLIP Loader", "CLIPLoader", ["clip_name"], "one file")

    @classmethod
    def validate_inputs(cls, clip_name: str) -> bool | str:
        """Return True, or what is wrong with the inputs."""
        return _chosen(clip_name)

    @classmethod
    def execute(cls, clip_name: str, use_runpod: bool, **choices: str) -> io.NodeOutput:
        """Load the CLIP; `choices` are those of ComfyUI's own loader.

        Raises:
            OffloadError: it cannot be loaded.
        """
        return cls.load((clip_name,), **choices, remotely=use_runpod)


class RemoteDualCLIPLoader(_ClipLoader):
    """A CLIP of two files: SDXL, Flux, HunyuanVideo."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node to ComfyUI."""
        names = ["clip_name1", "clip_name2"]
        return _schema("RemoteDualCLIPLoader", "Remote Dual CLIP Loader", "DualCLIPLoader", names, "two files")

    @classmethod
    def validate_inputs(cls, clip_name1: str, clip_name2: str) -> bool | str:
        """Return True, or what is wrong with the inputs."""
        return _chosen(clip_name1, clip_name2)

    @classmethod
    def execute(cls, clip_name1: str, clip_name2: str, use_runpod: bool, **choices: str) -> io.NodeOutput:
        """Load the CLIP; `choices` are those of ComfyUI's own loader.

        Raises:
            OffloadError: it cannot be loaded.
        """
        return cls.load((clip_name1, clip_name2), **choices, remotely=use_runpod)


class RemoteTripleCLIPLoader(_ClipLoader):
    """A CLIP of three files: SD3."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node to ComfyUI."""
        names = ["clip_name1", "clip_name2", "clip_name3"]
        return _schema("RemoteTripleCLIPLoader", "Remote Triple CLIP Loader", None, names, "three files")

    @classmethod
    def validate_inputs(cls, clip_name1: str, clip_name2: str, clip_name3: str) -> bool | str:
        """Return True, or what is wrong with the inputs."""
        return _chosen(clip_name1, clip_name2, clip_name3)

    @classmethod
    def execute(cls, clip_name1: str, clip_name2: str, clip_name3: str, use_runpod: bool) -> io.NodeOutput:
        """Load the CLIP.

        Raises:
            OffloadError: it cannot be loaded.
        """
        return cls.load((clip_name1, clip_name2, clip_name3), remotely=use_runpod)


class RemoteQuadrupleCLIPLoader(_ClipLoader):
    """A CLIP of four files: HiDream."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node to ComfyUI."""
        names = ["clip_name1", "clip_name2", "clip_name3", "clip_name4"]
        return _schema("RemoteQuadrupleCLIPLoader", "Remote Quadruple CLIP Loader", None, names, "four files")

    @classmethod
    def validate_inputs(cls, clip_name1: str, clip_name2: str, clip_name3: str, clip_name4: str) -> bool | str:
        """Return True, or what is wrong with the inputs."""
        return _chosen(clip_name1, clip_name2, clip_name3, clip_name4)

    @classmethod
    def execute(
        cls, clip_name1: str, clip_name2: str, clip_name3: str, clip_name4: str, use_runpod: bool
    ) -> io.NodeOutput:
        """Load the CLIP.

        Raises:
            OffloadError: it cannot be loaded.
        """
        names = (clip_name1, clip_name2, clip_name3, clip_name4)
        return cls.load(names, remotely=use_runpod)
