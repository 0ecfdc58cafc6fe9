"""Files of diffusion models, and their loading by ComfyUI's own loaders, at the worker or for a local model."""

from __future__ import annotations

from typing import Any

import comfy.sd
import torch

from ...backends.base import ModelFileError, ModelRunError
from ...backends.weight_files import check_weight_file
from .model_files import FileKind, ModelFile, naming_the_file

DIFFUSION_MODELS = FileKind("model", ("diffusion_models", "checkpoints"), {"unet": "diffusion_models"})
# ComfyUI's own loader offers these.
WEIGHT_DTYPES = ("default", "fp8_e4m3fn", "fp8_e4m3fn_fast", "fp8_e5m2")


def load_options(weight_dtype: str) -> dict[str, Any]:
    """Return ComfyUI's `model_options` for that weight dtype, as its own loader makes them.

    Raises:
        ModelRunError: ComfyUI's loader has no such choice.
    """
    if weight_dtype not in WEIGHT_DTYPES:
        raise ModelRunError(
            f"weight_dtype {weight_dtype!r} is unknown to ComfyUI: choose {', '.join(WEIGHT_DTYPES)}."
        )
    if weight_dtype == "default":
        return {}
    if weight_dtype == "fp8_e5m2":
        return {"dtype": torch.float8_e5m2}
    options: dict[str, Any] = {"dtype": torch.float8_e4m3fn}
    if weight_dtype == "fp8_e4m3fn_fast":
        options["fp8_optimizations"] = True
    return options


def load_patcher(file: ModelFile, weight_dtype: str) -> Any:
    """Return the model in a ComfyUI `ModelPatcher`, without text encoder and VAE.

    Raises:
        ModelFileError: it is damaged, or ComfyUI cannot tell what it is, or cannot load it.
        OutOfMemoryError: it does not fit.
    """
    options = load_options(weight_dtype)
    check_weight_file(file.path)
    # Inference as in ComfyUI's executor: weights made outside want gradients, and torch then multiplies matrices
    # another way, with another last bit.
    with naming_the_file(file), torch.inference_mode():
        if file.folder == "diffusion_models":
            patcher = comfy.sd.load_diffusion_model(str(file.path), model_options=options)
        else:
            patcher = comfy.sd.load_checkpoint_guess_config(
                str(file.path), output_vae=False, output_clip=False, model_options=options
            )[0]
    if patcher is None:
        raise ModelFileError(f"There is no diffusion model in {file.path}.")
    return patcher
