"""A backend with folders of models, which lists what lies in them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from comfy_gpu_offload.backends.base import Listing, ModelFolder
from comfy_gpu_offload.backends.model_folders import Skips, files_in
from comfy_gpu_offload.protocol.messages import ModelEntry

from .backend import FunctionBackend

FOLDERS = ("checkpoints", "diffusion_models", "vae")
_SUFFIXES = frozenset({".safetensors", ".ckpt"})


class FolderBackend(FunctionBackend):
    """See `Backend`. Its folders are below `root`."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root

    def model_folders(self) -> Mapping[str, ModelFolder]:
        return {name: ModelFolder(self.root / name, _SUFFIXES) for name in FOLDERS}

    def listing(self) -> Listing:
        def is_model(name: str) -> bool:
            return Path(name).suffix in _SUFFIXES

        found = [(folder, file) for folder in FOLDERS for file in files_in(self.root / folder, is_model, Skips())]
        return Listing(
            tuple(ModelEntry(name=file.name, folder=folder, size_bytes=file.size_bytes) for folder, file in found)
        )
