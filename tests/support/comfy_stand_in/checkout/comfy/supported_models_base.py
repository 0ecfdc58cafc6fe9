"""The facts that ComfyUI detects in a model's file."""

from __future__ import annotations

from typing import Any

import torch

import comfy.model_base


class BASE:
    """The base of all configs."""

    sampling_settings: dict[str, Any] = {}  # noqa: RUF012  # ComfyUI's own
    manual_cast_dtype: torch.dtype | None = None
    dtype = torch.float32

    def __init__(self, unet_config: dict[str, Any]) -> None:
        self.unet_config = dict(unet_config)
        self.sampling_settings = dict(self.sampling_settings)

    def model_type(self, state_dict: Any, prefix: str = "") -> comfy.model_base.ModelType:
        """Return the kind of prediction."""
        return comfy.model_base.ModelType.FLOW

    def set_inference_dtype(self, dtype: torch.dtype, manual_cast_dtype: torch.dtype | None) -> None:
        """Choose the dtypes of weights and of computing."""
        self.dtype, self.manual_cast_dtype = dtype, manual_cast_dtype

    def get_model(self, state_dict: Any, prefix: str = "", device: Any = None) -> comfy.model_base.BaseModel:
        """Make the model, with weights that nothing has been written to."""
        return comfy.model_base.BaseModel(self, self.model_type(state_dict, prefix), device)
