"""Files of text encoders, and their loading by ComfyUI's own loaders, at the worker or for a local CLIP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import comfy.sd
import comfy.utils
import torch

from ...backends.weight_files import check_weight_file
from .folder_names import TEXT_ENCODER_FOLDER
from .model_files import FileKind, ModelFile, naming_the_file

TEXT_ENCODERS = FileKind("text encoder", (TEXT_ENCODER_FOLDER,), {"clip": TEXT_ENCODER_FOLDER})
_CPU = torch.device("cpu")


def clip_type_name(choice: str) -> str:
    """Return the name of the `CLIPType` that ComfyUI's loaders take for a choice of theirs; ``sdxl`` has none."""
    return choice.upper() if choice.upper() in comfy.sd.CLIPType.__members__ else "STABLE_DIFFUSION"


def load_options(*, on_cpu: bool) -> dict[str, Any]:
    """Return the `model_options` of ComfyUI's loaders for their choice of a device."""
    return {"load_device": _CPU, "offload_device": _CPU} if on_cpu else {}


def load_clip(files: Sequence[ModelFile], type_name: str, *, on_cpu: bool, embeddings: Any = None) -> Any:
    """Return a CLIP of these files, as ComfyUI's own loaders make it.

    Args:
        type_name: of a `comfy.sd.CLIPType`.
        on_cpu: whether it is to run on the CPU, as these loaders let users choose.
        embeddings: the folders of textual inversions; None for none.

    Raises:
        ModelFileError: a file is damaged, or ComfyUI cannot load them together.
        OutOfMemoryError: they do not fit.
    """
    for file in files:
        check_weight_file(file.path)
    with naming_the_file(files[0], " as a text encoder"), torch.inference_mode():
        return comfy.sd.load_clip(
            [str(file.path) for file in files],
            embedding_directory=embeddings,
            clip_type=comfy.sd.CLIPType[type_name],
            model_options=load_options(on_cpu=on_cpu),
        )


def read_file(file: ModelFile) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return a file's tensors and metadata. Weights of safetensors files are mapped, not read."""
    tensors, metadata = comfy.utils.load_torch_file(str(file.path), safe_load=True, return_metadata=True)
    return tensors, metadata or {}
