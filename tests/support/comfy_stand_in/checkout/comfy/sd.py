"""ComfyUI's loaders, and the one kind of model that they know here: a linear layer over a latent's channels."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Any

import torch

import comfy.model_management
import comfy.utils
from comfy.model_patcher import ModelPatcher
from comfy.model_sampling import CONST, ModelSamplingDiscreteFlow

# The names of the files that were loaded.
loaded: list[str] = []


class ModelType(enum.Enum):
    """Kinds of prediction."""

    FLOW = 6


class LatentFormat:
    """The form of a latent."""

    latent_channels = 4


class StandInConfig:
    """What ComfyUI detects of a file."""

    unet_config = {"image_model": "stand_in", "channels": 4}  # noqa: RUF012  # ComfyUI's own
    sampling_settings = {"shift": 1.0}  # noqa: RUF012


class Network(torch.nn.Module):
    """A diffusion model: ``layer(x)`` over the channels, plus the context's mean and ControlNets' residuals."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 4, dtype=dtype)
        self.blocks = torch.nn.ModuleList([torch.nn.Identity()])

    def forward(
        self, x: torch.Tensor, t: torch.Tensor, context: Any = None, control: Any = None, **kwargs: Any
    ) -> torch.Tensor:
        """Compute one call on a latent `[B, 4, H, W]`."""
        made = self.blocks[0](self.layer(x.movedim(1, -1)).movedim(-1, 1))
        if context is not None:
            made = made + context.mean()
        for patch in kwargs.get("transformer_options", {}).get("patches", {}).get("output_block_patch", []):
            made, _ = patch(made, made, {})
        for residual in () if control is None else control["output"]:
            made = made + residual
        return made

    def preprocess_text_embeds(self, embeds: torch.Tensor) -> torch.Tensor:
        """Make conditioning ready."""
        return embeds + 1


class _Sampling(ModelSamplingDiscreteFlow, CONST):
    pass


class BaseModel(torch.nn.Module):
    """A network with what ComfyUI knows of it."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.diffusion_model = Network(dtype)
        self.model_config = StandInConfig()
        self.model_type = ModelType.FLOW
        self.model_sampling = _Sampling()
        self.latent_format = LatentFormat()
        self.manual_cast_dtype: torch.dtype | None = None
        self.current_weight_patches_uuid: Any = None
        self.current_patcher: Any = None
        self.model_lowvram = False

    def get_dtype(self) -> torch.dtype:
        """Return the dtype of the weights."""
        return self.diffusion_model.layer.weight.dtype

    def get_dtype_inference(self) -> torch.dtype:
        """Return the dtype in which it is called."""
        return self.manual_cast_dtype or self.get_dtype()

    def memory_required(self, input_shape: list[int]) -> int:
        """Return the bytes that a call takes."""
        return 1000 * input_shape[0]


def load_diffusion_model(unet_path: str, model_options: dict[str, Any] | None = None) -> ModelPatcher | None:
    """Load a diffusion model's file; None where there is none in it."""
    weights = comfy.utils.load_torch_file(unet_path)
    loaded.append(Path(unet_path).name)
    if "layer.weight" not in weights:
        return None
    if weights["layer.weight"].shape != (4, 4):
        raise RuntimeError("size mismatch for layer.weight")
    dtype = (model_options or {}).get("dtype", weights["layer.weight"].dtype)
    model = BaseModel(dtype if dtype.itemsize > 1 else torch.float32)
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
