"""Train the bundled digits model anew: `python benchmarks/train_digits.py --out DIR`.

Rectified flow (Liu et al. 2022, arXiv:2209.03003) with the logit-normal sigmas of Stable Diffusion 3
(Esser et al. 2024, arXiv:2403.03206), on scikit-learn's 1797 digits. Needs diffusers and scikit-learn.
"""

from __future__ import annotations

import argparse
import copy
import logging
import math
import time
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import SD3Transformer2DModel
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from comfy_gpu_offload.digits.conditioning import CONTEXT_WIDTH, POOLED_WIDTH, conditioning, unconditional
from comfy_gpu_offload.digits.latent import CHANNELS, LATENT_SIZE, PICTURE_SIZE, encode, process_in
from comfy_gpu_offload.digits.sampling import TIMESTEPS

log = logging.getLogger(__name__)

BATCH: Final = 128
LEARNING_RATE: Final = 2e-3
DROPPED_SHARE: Final = 0.1
EMA_DECAY: Final = 0.999
LOG_EVERY: Final = 100

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


def upscale(digits: Tensor) -> Tensor:
    """Enlarge scikit-learn's digits `[B, 8, 8]` (0..16) to pictures `[B, 32, 32]`, float32, 0..1.

    A margin of one digit pixel is added, because the originals touch the edges; then bicubic enlargement,
    and a smoothstep which firms up the strokes.
    """
    grey = functional.pad(digits.float().unsqueeze(1) / 16, (1, 1, 1, 1))
    size = (PICTURE_SIZE, PICTURE_SIZE)
    ink = functional.interpolate(grey, size=size, mode="bicubic", align_corners=False).squeeze(1).clamp(0, 1)
    return ink * ink * (3 - 2 * ink)


def load_pictures() -> tuple[Tensor, Tensor]:
    """Return the real digits as pictures `[1797, 32, 32]` (0..1), float32, and labels `[1797]`, int64."""
    digits = load_digits()
    return upscale(torch.from_numpy(digits.images)), torch.from_numpy(digits.target).long()


def jitter(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Turn, scale and move each picture `[B, 32, 32]` a little: 6 degrees, 6 % and one pixel at most.

    Fewer than 1800 pictures would be learnt by heart otherwise.
    """
    batch = len(pictures)
    angle, scale, x, y = (torch.rand(4, batch, generator=generator) * 2 - 1).unbind()
    angle, scale = angle * math.radians(6), 1 + scale * 0.06
    cos, sin = angle.cos() * scale, angle.sin() * scale
    pixel = 2 / pictures.shape[-1]
    rows = [torch.stack([cos, -sin, x * pixel], 1), torch.stack([sin, cos, y * pixel], 1)]
    grid = functional.affine_grid(torch.stack(rows, 1), [batch, 1, *pictures.shape[1:]], align_corners=False)
    moved = functional.grid_sample(pictures.unsqueeze(1), grid, mode="bilinear", align_corners=False)
    return moved.squeeze(1)


def flow_loss(
    model: nn.Module, latents: Tensor, context: Tensor, pooled: Tensor, generator: torch.Generator
) -> Tensor:
    """Return the mean squared error of the predicted velocity, a scalar.

    Args:
        model: has the call of `SD3Transformer2DModel`.
        latents: `[B, 16, 8, 8]` in the model's space.
        context: `[B, 4, 48]`.
        pooled: `[B, 64]`.
        generator: of the noise and the sigmas.
    """
    sigma = torch.randn(len(latents), generator=generator).sigmoid()
    noise = torch.randn(latents.shape, generator=generator)
    mix = sigma.view(-1, 1, 1, 1)
    (velocity,) = model(
        hidden_states=torch.lerp(latents, noise, mix),
        timestep=sigma * TIMESTEPS,
        encoder_hidden_states=context,
        pooled_projections=pooled,
        return_dict=False,
    )
    return functional.mse_loss(velocity, noise - latents)


def train(minutes: float, seed: int) -> nn.Module:
    """Train for `minutes` and return the average of the weights, float32, an `SD3Transformer2DModel`."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model: Any = SD3Transformer2DModel(**ARCHITECTURE)
    average = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    pictures, labels = load_pictures()
    started, progress, step, mean = time.monotonic(), 0.0, 0, 0.0
    while progress < 1:
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - progress)
        chosen = torch.randint(len(labels), (BATCH,), generator=generator)
        latents = process_in(encode(jitter(pictures[chosen], generator)))
        loss = flow_loss(model, latents, *_labelled(labels[chosen], generator), generator)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        _follow(average, model, min(EMA_DECAY, step / (step + 10)))
        mean += (loss.item() - mean) / min(step, LOG_EVERY)
        progress = (time.monotonic() - started) / (minutes * 60)
        if step % LOG_EVERY == 0 or progress >= 1:
            log.info("step %d, %.0f %% of the time, loss %.4f", step, 100 * min(progress, 1), mean)
    return average


def _labelled(labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return context and pooled of the labels `[B]`, with a tenth of the labels dropped."""
    context, pooled = conditioning(labels.tolist())
    dropped_context, dropped_pooled = unconditional(len(labels))
    dropped = torch.rand(len(labels), generator=generator) < DROPPED_SHARE
    return (
        torch.where(dropped.view(-1, 1, 1), dropped_context, context),
        torch.where(dropped.view(-1, 1), dropped_pooled, pooled),
    )


def save(model: nn.Module, folder: Path) -> None:
    """Write an `SD3Transformer2DModel` to `folder` in float16, as diffusers reads it; casts it in place."""
    saved: Any = model.half()
    saved.save_pretrained(folder)


@torch.no_grad()
def _follow(average: nn.Module, model: nn.Module, decay: float) -> None:
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)


def main() -> None:
    """Train, and write `config.json` and the float16 weights into the folder given."""
    parser = argparse.ArgumentParser(description="Train the digits model.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the diffusers model")
    parser.add_argument("--minutes", type=float, default=20.0, help="time to train (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, batches and noise (default: 0)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(arguments.threads)
    model = train(arguments.minutes, arguments.seed)
    save(model, arguments.out)
    log.info("wrote %s", arguments.out)


if __name__ == "__main__":
    main()
