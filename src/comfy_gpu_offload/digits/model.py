"""The digits model: its architecture and its bundled weights."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from .conditioning import CONTEXT_WIDTH, POOLED_WIDTH
from .latent import CHANNELS, LATENT_SIZE

# ComfyUI reads layers and heads off the width: both are width / 64 in an SD3 checkpoint.
ARCHITECTURE: Final[dict[str, Any]] = {
    "sample_size": LATENT_SIZE,
    "patch_size": 2,
    "in_channels": CHANNELS,
    "out_channels": CHANNELS,
    "num_layers": 2,
    "num_attention_heads": 2,
    "attention_head_dim": 64,
    "joint_attention_dim": CONTEXT_WIDTH,
    "caption_projection_dim": 128,
    "pooled_projection_dim": POOLED_WIDTH,
    "pos_embed_max_size": LATENT_SIZE,
}
"""Keyword arguments of `diffusers.SD3Transformer2DModel`."""

FOLDER: Final = Path(__file__).parent / "weights"
"""The bundled diffusers model folder: `config.json` and the weights in float16."""

WEIGHTS: Final = FOLDER / "diffusion_pytorch_model.safetensors"
"""The weights alone; ComfyUI loads this file as an SD3 diffusion model."""


def untrained() -> nn.Module:
    """Build an `SD3Transformer2DModel` of this architecture, float32, with weights from torch's global RNG.

    Raises:
        ImportError: diffusers is not installed.
    """
    model: nn.Module = _transformer()(**ARCHITECTURE)
    return model


def save(model: nn.Module, folder: Path) -> None:
    """Write an `SD3Transformer2DModel` to `folder` in float16, as diffusers reads it; casts it in place."""
    saved: Any = model.half()
    saved.save_pretrained(folder)


def load(dtype: torch.dtype, device: str | torch.device = "cpu") -> nn.Module:
    """Load the bundled `SD3Transformer2DModel` for inference, on `device` and in `dtype`.

    Raises:
        ImportError: diffusers is not installed.
    """
    # Without accelerate, diffusers warns that it cannot do its default of low_cpu_mem_usage.
    model: nn.Module = _transformer().from_pretrained(
        FOLDER, torch_dtype=dtype, local_files_only=True, low_cpu_mem_usage=False
    )
    return model.to(device).eval()


def _transformer() -> Any:
    # diffusers is optional and its annotations do not pass mypy's strict mode, so it stays Any here.
    return importlib.import_module("diffusers").SD3Transformer2DModel
