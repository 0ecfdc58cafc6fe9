"""ControlNets and T2I adapters at the worker: found, loaded and described by ComfyUI's own code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.controlnet
import comfy.utils
import folder_paths
import torch
from safetensors import safe_open

from ...backends.base import ModelFileError, ModelNotFoundError, ModelRunError
from ...backends.model_folders import Skips
from ...backends.weight_files import SAFETENSORS, check_weight_file
from ..wire.control_data import FOLDER, PREPROCESSING
from .model_files import ModelFile, files_of, naming_the_file

# By these ComfyUI's own loader knows one.
_DIFFERENCE = frozenset({"difference", "control_model.zero_convs.0.0.weight"})


def find_control_nets(skips: Skips | None = None) -> list[ModelFile]:
    """Return every file in ComfyUI's ControlNet folders that can be read.

    A name is the path below its folder, with forward slashes. `skips` is told of what is passed over.
    """
    return files_of(FOLDER, skips)


def find_control_net(name: str) -> ModelFile:
    """The file of that name.

    Raises:
        ModelNotFoundError: there is none; names the folders looked in.
    """
    for file in find_control_nets():
        if file.name == name.replace("\\", "/"):
            return file
    looked = ", ".join(folder_paths.get_folder_paths(FOLDER))
    raise ModelNotFoundError(
        f"There is no ControlNet {name!r:.260}. Looked in {looked}. Put it there, or choose another in the node, "
        "whose button asks for the list again."
    )


def load_control_net(file: ModelFile) -> Any:
    """The ControlNet or T2I adapter, by ComfyUI's own loader.

    Raises:
        ModelFileError: it is damaged, or ComfyUI cannot tell what it is, or cannot load it.
        OutOfMemoryError: it does not fit.
    """
    check_weight_file(file.path)
    with naming_the_file(file, " as a ControlNet"):
        if _is_a_difference(file.path):
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


def _is_a_difference(path: Path) -> bool:
    """Return whether ComfyUI wants a model beside the file; without one it loads it all the same."""
    if path.suffix.lower() in SAFETENSORS:
        with safe_open(str(path), framework="pt") as file:
            keys = frozenset(file.keys())
    else:
        keys = frozenset(comfy.utils.load_torch_file(str(path), safe_load=True))
    return keys >= _DIFFERENCE


def network_of(net: Any) -> torch.nn.Module | None:
    """The module that computes; None for one that is made of a model's own weights (Control-LoRA)."""
    for name in ("control_model", "t2i_model"):
        module = getattr(net, name, None)
        if isinstance(module, torch.nn.Module):
            return module
    return None


def compute_dtype(net: Any) -> torch.dtype | None:
    """What it computes in; None for the model's own."""
    if not hasattr(net, "control_model"):
        return torch.float32 if hasattr(net, "t2i_model") else None
    dtype: torch.dtype = getattr(net, "manual_cast_dtype", None) or net.control_model.dtype
    return dtype


def describe(net: Any) -> dict[str, Any]:
    """What a client must know to apply it: see `ControlNetFacts`.

    Raises:
        ModelRunError: it prepares pictures in a way that is not known here.
    """
    return {
        "control_net": {
            "reads_latent": not hasattr(net, "t2i_model"),
            "compute_dtype": compute_dtype(net),
            "compression_ratio": net.compression_ratio,
            "upscale_algorithm": net.upscale_algorithm,
            "needs_vae": net.latent_format is not None,
            "preprocessing": _preprocessing(net),
            "concat_mask": bool(net.concat_mask),
            "extra_conds": list(net.extra_conds),
        }
    }


def _preprocessing(net: Any) -> str:
    """Which of `PREPROCESSING` it does, by what it makes of some numbers."""
    probe = torch.tensor([0.0, 0.25, 1.0])
    made = net.preprocess_image(probe.clone())
    for name, function in PREPROCESSING.items():
        if torch.equal(made, function(probe)):
            return name
    raise ModelRunError("This ControlNet prepares its picture in a way that is not known here.")
