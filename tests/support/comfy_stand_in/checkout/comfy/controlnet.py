"""ComfyUI's ControlNets."""

from __future__ import annotations

from typing import Any

import torch

import comfy.model_management
import comfy.utils
from comfy.model_patcher import ModelPatcher


class ControlBase:
    """The base of all ControlNets."""

    def __init__(self) -> None:
        self.cond_hint_original: Any = None
        self.cond_hint: Any = None
        self.strength = 1.0
        self.timestep_percent_range = (0.0, 1.0)
        self.timestep_range: Any = None
        self.latent_format: Any = None
        self.vae: Any = None
        self.compression_ratio = 8
        self.upscale_algorithm = "nearest-exact"
        self.extra_args: dict[str, Any] = {}
        self.previous_controlnet: ControlBase | None = None
        self.extra_conds: list[str] = []
        self.concat_mask = False
        self.extra_concat_orig: list[Any] = []
        self.extra_hooks: Any = None
        self.preprocess_image: Any = lambda a: a
        self.multigpu_clones: dict[Any, Any] = {}

    def set_cond_hint(
        self,
        cond_hint: Any,
        strength: float = 1.0,
        timestep_percent_range: Any = (0.0, 1.0),
        vae: Any = None,
        extra_concat: Any = (),
    ) -> ControlBase:
        """Apply it to a picture `[N, C, H, W]`."""
        self.cond_hint_original, self.strength = cond_hint, strength
        self.timestep_percent_range = timestep_percent_range
        if self.latent_format is not None:
            self.vae = vae
        self.extra_concat_orig = list(extra_concat)
        return self

    def pre_run(self, model: Any, percent_to_timestep_function: Any) -> None:
        """Prepare for a run."""
        self.timestep_range = tuple(map(percent_to_timestep_function, self.timestep_percent_range))
        if self.previous_controlnet is not None:
            self.previous_controlnet.pre_run(model, percent_to_timestep_function)

    def set_previous_controlnet(self, controlnet: Any) -> ControlBase:
        """Compute another one first."""
        self.previous_controlnet = controlnet
        return self

    def cleanup(self) -> None:
        """Let go of what was made for a run."""
        self.cond_hint = self.timestep_range = None

    def get_models(self) -> list[Any]:
        """Return the patchers of this one and those before it."""
        return [] if self.previous_controlnet is None else self.previous_controlnet.get_models()

    def inference_memory_requirements(self, dtype: torch.dtype) -> int:
        """Return the bytes that a call takes."""
        return (
            0 if self.previous_controlnet is None else self.previous_controlnet.inference_memory_requirements(dtype)
        )

    def copy_to(self, c: ControlBase) -> None:
        """Give a copy what this one was set up with."""
        for name in (
            *("cond_hint_original", "strength", "timestep_percent_range", "compression_ratio", "upscale_algorithm"),
            *("latent_format", "vae", "concat_mask", "extra_hooks", "preprocess_image"),
        ):
            setattr(c, name, getattr(self, name))
        c.extra_args, c.extra_conds = dict(self.extra_args), list(self.extra_conds)
        c.extra_concat_orig = list(self.extra_concat_orig)


class ControlModel(torch.nn.Module):
    """The network of a ControlNet."""

    dtype = torch.float32

    def __init__(self, scale: torch.Tensor) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(scale, requires_grad=False)
        self.current_weight_patches_uuid: Any = None


class ControlNet(ControlBase):
    """One residual: the means of picture and latent, times the scale and the strength, after those before it."""

    def __init__(self, control_model: Any = None) -> None:
        super().__init__()
        self.control_model = control_model
        self.manual_cast_dtype: torch.dtype | None = None
        self.extra_conds = ["y"]
        self.model_sampling_current: Any = None
        # In ComfyUI all copies share it.
        device = comfy.model_management.get_torch_device()
        self.control_model_wrapped = ModelPatcher(control_model, device, device)

    def get_control(self, x_noisy: Any, t: Any, cond: Any, batched_number: int, transformer_options: Any) -> Any:
        """Compute the residuals."""
        before = None
        if self.previous_controlnet is not None:
            before = self.previous_controlnet.get_control(x_noisy, t, cond, batched_number, transformer_options)
        if cond["c_crossattn"] is not None and cond["c_crossattn"].shape[-1] > 100:
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
        x = self.model_sampling_current.calculate_input(t, x_noisy)
        mean = self.cond_hint_original.mean() + x.mean()
        made = torch.full_like(x, float(mean * self.control_model.scale)) * self.strength
        given = [] if before is None else before["output"]
        # As ComfyUI merges: what is before this one comes first in the sum, and may have more entries.
        return {"input": [], "middle": [], "output": [given[0] + made if given else made, *given[1:]]}

    def pre_run(self, model: Any, percent_to_timestep_function: Any) -> None:
        """Prepare for a run."""
        super().pre_run(model, percent_to_timestep_function)
        self.model_sampling_current = model.model_sampling

    def copy(self) -> ControlNet:
        """Return another one of the same network."""
        made = type(self)(self.control_model)
        made.control_model_wrapped = self.control_model_wrapped
        self.copy_to(made)
        return made

    def get_models(self) -> list[Any]:
        """Return the patchers of this one and those before it."""
        return [*super().get_models(), self.control_model_wrapped]

    def inference_memory_requirements(self, dtype: torch.dtype) -> int:
        """Return the bytes that a call takes."""
        return 500 + super().inference_memory_requirements(dtype)


class ControlLora(ControlNet):
    """One that takes weights of the model."""


class ControlNetSD35(ControlNet):
    """One of SD3.5."""


class T2IAdapter(ControlBase):
    """A network that looks at the latent's size alone."""

    def __init__(self, t2i_model: Any) -> None:
        super().__init__()
        self.t2i_model = t2i_model


def load_controlnet(ckpt_path: str, model: Any = None) -> ControlBase | None:
    """Load a ControlNet's file; None where there is none in it."""
    weights = comfy.utils.load_torch_file(ckpt_path)
    if "adapter.scale" in weights:
        return T2IAdapter(ControlModel(weights["adapter.scale"]))
    return ControlNet(ControlModel(weights["control.scale"])) if "control.scale" in weights else None
