"""A run of euler steps, each of them one call of the network for each entry of the conditioning."""

from __future__ import annotations

from typing import Any

import torch

import comfy.model_management

# The arguments of each run.
runs: list[dict[str, Any]] = []


def fix_empty_latent_channels(
    model: Any, latent_image: Any, downscale_ratio_spacial: int | None = None, downscale_ratio_temporal: Any = None
) -> Any:
    """Return a latent with the model's number of channels, if it is empty."""
    channels = model.get_model_object("latent_format").latent_channels
    if latent_image.shape[1] == channels or bool(latent_image.any()):
        return latent_image
    return torch.zeros(latent_image.shape[0], channels, *latent_image.shape[2:])


def prepare_noise(latent_image: torch.Tensor, seed: int, noise_inds: Any = None) -> torch.Tensor:
    """Return noise of a latent's shape."""
    return torch.randn(latent_image.shape, generator=torch.manual_seed(seed), dtype=latent_image.dtype)


def sample(
    model: Any, noise: Any, steps: int, cfg: float, sampler_name: str, scheduler: str,
    positive: Any, negative: Any, latent_image: Any, *, callback: Any = None, **kwargs: Any,
) -> torch.Tensor:  # fmt: skip
    """Sample a latent."""
    names = {"steps": steps, "cfg": cfg, "sampler_name": sampler_name, "scheduler": scheduler}
    runs.append({**names, "positive": positive, "negative": negative, **kwargs, "patcher": model})
    nets = [options["control"] for _, options in (*positive, *negative) if "control" in options]
    comfy.model_management.load_models_gpu([model, *(each for net in nets for each in net.get_models())])
    for net in nets:
        net.pre_run(model.model, lambda percent: 1.0 - percent)
    x = latent_image + noise
    for step in range(steps):
        sigma = torch.full((x.shape[0],), 1.0 - step / steps)
        sides = [_denoised(model, x, sigma, each) for each in (positive, negative)]
        made = sides[1] + cfg * (sides[0] - sides[1])
        x = x - made / steps
        if callback is not None:
            callback(step, made, x, steps)
    return x


def _denoised(model: Any, x: torch.Tensor, sigma: torch.Tensor, conditioning: Any) -> torch.Tensor:
    found = torch.zeros_like(x)
    for context, options in conditioning:
        net = options.get("control")
        cond = {"c_crossattn": context}
        control = None if net is None else net.get_control(x, sigma, cond, 1, {})
        transformer_options = model.model_options["transformer_options"]
        network = model.model.diffusion_model
        found = found + network(x, sigma, context, control, transformer_options=transformer_options)
    return found
