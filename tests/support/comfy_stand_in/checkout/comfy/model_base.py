"""Models: a network with what ComfyUI knows of it."""

from __future__ import annotations

import enum
from typing import Any

import torch

from comfy.latent_formats import LatentFormat
from comfy.ldm.stand_in import Network
from comfy.model_sampling import CONST, ModelSamplingDiscreteFlow


class ModelType(enum.Enum):
    """Kinds of prediction."""

    FLOW = 6


def convert_tensor(value: torch.Tensor, dtype: torch.dtype, device: Any) -> torch.Tensor:
    """Return a tensor in a model's dtype; numbers that are no fractions stay."""
    return value.to(device, dtype if value.is_floating_point() else value.dtype)


class _Sampling(ModelSamplingDiscreteFlow, CONST):
    pass


class BaseModel(torch.nn.Module):
    """A network with what ComfyUI knows of it."""

    def __init__(self, model_config: Any, model_type: ModelType = ModelType.FLOW, device: Any = None) -> None:
        super().__init__()
        self.diffusion_model = Network(model_config.dtype, device)
        self.model_config = model_config
        self.model_type = model_type
        self.model_sampling = _Sampling()
        self.latent_format = LatentFormat()
        self.manual_cast_dtype = model_config.manual_cast_dtype
        self.current_weight_patches_uuid: Any = None
        self.current_patcher: Any = None
        self.model_lowvram = False

    def get_dtype(self) -> torch.dtype:
        """Return the dtype of the weights."""
        return self.diffusion_model.layer.weight.dtype

    def get_dtype_inference(self) -> torch.dtype:
        """Return the dtype in which it is called."""
        return self.manual_cast_dtype or self.get_dtype()

    def process_latent_out(self, latent: Any) -> Any:
        """Return a latent after sampling."""
        return self.latent_format.process_out(latent)

    def extra_conds_shapes(self, **kwargs: Any) -> dict[str, Any]:
        """Return the shapes of a condition's further inputs."""
        return {}

    def memory_required(self, input_shape: list[int]) -> int:
        """Return the bytes that a call takes."""
        return 1000 * input_shape[0]
