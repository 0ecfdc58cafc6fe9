"""The network of the one kind of model that the stand-in knows."""

from __future__ import annotations

from typing import Any

import torch

import comfy.patcher_extension


class Network(torch.nn.Module):
    """A diffusion model: ``layer(x)`` over the channels, plus the context's mean and ControlNets' residuals."""

    def __init__(self, dtype: torch.dtype, device: Any = None) -> None:
        super().__init__()
        self.dtype = dtype
        self.layer = torch.nn.Linear(4, 4, dtype=dtype, device=device)
        self.blocks = torch.nn.ModuleList([torch.nn.Identity()])

    def forward(self, x: torch.Tensor, t: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Compute one call on a latent `[B, 4, H, W]`, within the wrappers."""
        wrappers = comfy.patcher_extension.get_all_wrappers(
            comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, kwargs.get("transformer_options", {})
        )
        executor = comfy.patcher_extension.WrapperExecutor.new_class_executor(self._forward, self, wrappers)
        return executor.execute(x, t, *args, **kwargs)

    def _forward(
        self, x: torch.Tensor, t: torch.Tensor, context: Any = None, control: Any = None, **kwargs: Any
    ) -> torch.Tensor:
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
