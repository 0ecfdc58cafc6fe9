"""Files of ControlNets and T2I adapters, and their loading by ComfyUI's own loader, at the worker or locally."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.controlnet
import comfy.utils
import torch
from safetensors import safe_open

from ...backends.base import ModelFileError
from ...backends.weight_files import SAFETENSORS, check_weight_file
from .folder_names import CONTROL_NET_FOLDER
from .model_files import FileKind, ModelFile, naming_the_file

CONTROL_NETS = FileKind("ControlNet", (CONTROL_NET_FOLDER,), {"t2i_adapter": CONTROL_NET_FOLDER})
# ComfyUI's own loader recognises such a file by these keys.
_KEYS_OF_DIFFERENCES = frozenset({"difference", "control_model.zero_convs.0.0.weight"})


def load_control_net(file: ModelFile) -> Any:
    """Return the ControlNet or T2I adapter, as ComfyUI's own loader makes it.

    Raises:
        ModelFileError: it is damaged, or ComfyUI cannot tell what it is, or cannot load it.
        OutOfMemoryError: it does not fit.
    """
    check_weight_file(file.path)
    with naming_the_file(file, " as a ControlNet"):
        if _holds_differences(file.path):
            raise ModelFileError(
                f"{file.path} holds what a ControlNet adds to a model's own weights, and has to be loaded with "
                "that model: load the model on the client (Remote Model Loader with use_runpod off, or ComfyUI's "
                "own loader), and this file with ComfyUI's Load ControlNet Model (diff)."
            )
        with torch.inference_mode():
            net = comfy.controlnet.load_controlnet(str(file.path))
    if net is None:
        raise ModelFileError(f"There is no ControlNet in {file.path}.")
    return net


def _holds_differences(path: Path) -> bool:
    """Return whether ComfyUI wants a model beside the file; without one it loads it all the same."""
    if path.suffix.lower() in SAFETENSORS:
        with safe_open(str(path), framework="pt") as file:
            keys = frozenset(file.keys())
    else:
        keys = frozenset(comfy.utils.load_torch_file(str(path), safe_load=True))
    return keys >= _KEYS_OF_DIFFERENCES
