"""The digits model: its bundled weights, and how diffusers loads them."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

FOLDER: Final = Path(__file__).parent / "weights"
"""The bundled diffusers model folder: `config.json` and the weights in float16."""

WEIGHTS: Final = FOLDER / "diffusion_pytorch_model.safetensors"
"""The weights alone; ComfyUI loads this file as an SD3 diffusion model."""


def load(dtype: torch.dtype, device: str | torch.device = "cpu") -> nn.Module:
    """Load the bundled `SD3Transformer2DModel` for inference, on `device` and in `dtype`.

    Raises:
        ImportError: diffusers is not installed.
    """
    # diffusers is optional and its annotations do not pass mypy's strict mode, so it stays Any here.
    kind: Any = importlib.import_module("diffusers").SD3Transformer2DModel
    # Without accelerate, diffusers warns that it cannot do its default of low_cpu_mem_usage.
    model: nn.Module = kind.from_pretrained(
        FOLDER, torch_dtype=dtype, local_files_only=True, low_cpu_mem_usage=False
    )
    return model.to(device).eval()
