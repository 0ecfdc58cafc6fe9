"""ComfyUI's loaders, for files of the one kind of model that the stand-in knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import comfy.ldm.stand_in
import comfy.model_management
import comfy.utils
from comfy.model_patcher import ModelPatcher
from comfy.supported_models import StandInConfig

Network = comfy.ldm.stand_in.Network
# The names of the files that were loaded.
loaded: list[str] = []


def load_diffusion_model(unet_path: str, model_options: dict[str, Any] | None = None) -> ModelPatcher | None:
    """Load a diffusion model's file; None where there is none in it."""
    weights = comfy.utils.load_torch_file(unet_path)
    loaded.append(Path(unet_path).name)
    if "layer.weight" not in weights:
        return None
    if weights["layer.weight"].shape != (4, 4):
        raise RuntimeError("size mismatch for layer.weight")
    dtype = (model_options or {}).get("dtype", weights["layer.weight"].dtype)
    config = StandInConfig(StandInConfig.unet_config)
    config.set_inference_dtype(dtype if dtype.itemsize > 1 else torch.float32, None)
    model = config.get_model(weights)
    model.diffusion_model.load_state_dict({key: weights[key] for key in ("layer.weight", "layer.bias")})
    model.requires_grad_(False)
    device = comfy.model_management.get_torch_device()
    return ModelPatcher(model, device, device)


def load_checkpoint_guess_config(
    ckpt_path: str, output_vae: bool = True, output_clip: bool = True, model_options: dict[str, Any] | None = None
) -> tuple[ModelPatcher | None, None, None]:
    """Load the diffusion model of a checkpoint."""
    assert not output_vae
    assert not output_clip
    return load_diffusion_model(ckpt_path, model_options), None, None


class VAE:
    """The class that remote VAEs derive from. The stand-in has no VAEs."""
