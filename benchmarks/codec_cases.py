"""Tensors to measure codecs on: generated, out of a real sampling run, and captured elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file

from comfy_gpu_offload.digits.model import load
from comfy_gpu_offload.digits.sampling import sample
from comfy_gpu_offload.io.dtypes import NAMES


class Case(NamedTuple):
    """Tensors that are measured together."""

    name: str
    tensors: list[torch.Tensor]


def generated(seed: int) -> Iterator[Case]:
    """Noise of a Flux latent's shape (1024²) in three dtypes; a short prompt's T5 states, padded to 512 tokens."""
    generator = torch.Generator().manual_seed(seed)
    latent = torch.randn(1, 16, 128, 128, generator=generator)
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        yield Case(f"Gaussian {NAMES[dtype]}", [latent.to(dtype)])
    context = torch.zeros(1, 512, 4096)
    context[:, :20] = torch.randn(1, 20, 4096, generator=generator)
    yield Case("padded T5 BF16", [context.bfloat16()])


def digits(seed: int, dtype: torch.dtype = torch.bfloat16, batch: int = 64, steps: int = 10) -> Iterator[Case]:
    """What the bundled model reads and answers at each step while it draws digits: batch 64, guidance 2."""
    model = load(dtype)
    up: list[torch.Tensor] = []
    down: list[torch.Tensor] = []

    def recording(**inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        up.append(inputs["hidden_states"].clone())
        outputs: tuple[torch.Tensor, ...] = model(**inputs)
        down.append(outputs[0].clone())
        return outputs

    sample(recording, [i % 10 for i in range(batch)], steps=steps, seed=seed, dtype=dtype)
    yield Case(f"digits {NAMES[dtype]}, latents", up)
    yield Case(f"digits {NAMES[dtype]}, predictions", down)


def captured(folder: Path) -> Iterator[Case]:
    """Every safetensors file in the folder, as one case each.

    Raises:
        FileNotFoundError: there is none.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"no *.safetensors in {folder}")
    for path in files:
        yield Case(path.stem, [tensor for tensor in load_file(path).values() if tensor.numel()])
