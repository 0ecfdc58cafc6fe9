"""Contents of conditioning, described by shape and made for each run, since ComfyUI changes some in place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.clip_vision
import torch


@dataclass(frozen=True, init=False)
class Drawn:
    """Random numbers."""

    shape: tuple[int, ...]
    seed: int

    def __init__(self, *shape: int, seed: int = 1) -> None:
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "seed", seed)

    def make(self) -> torch.Tensor:
        return torch.randn(self.shape, generator=torch.Generator().manual_seed(self.seed))


@dataclass(frozen=True, init=False)
class Bits:
    """A mask whose first half is 1."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    def __init__(self, *shape: int, dtype: torch.dtype = torch.float32) -> None:
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "dtype", dtype)

    def make(self) -> torch.Tensor:
        size = torch.Size(self.shape).numel()
        return (torch.arange(size) < (size + 1) // 2).to(self.dtype).reshape(self.shape)


@dataclass(frozen=True, init=False)
class Ones:
    """A mask that covers everything."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    def __init__(self, *shape: int, dtype: torch.dtype = torch.float32) -> None:
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "dtype", dtype)

    def make(self) -> torch.Tensor:
        return torch.ones(self.shape, dtype=self.dtype)


@dataclass(frozen=True)
class Vision:
    """The output of a CLIP vision model for an image."""

    width: int
    tokens: int = 5
    seed: int = 1

    def make(self) -> Any:
        output = comfy.clip_vision.Output()
        output["image_embeds"] = Drawn(1, self.width, seed=self.seed).make()
        output["last_hidden_state"] = Drawn(1, self.tokens, self.width, seed=self.seed + 1).make()
        output["penultimate_hidden_states"] = Drawn(1, self.tokens, self.width, seed=self.seed + 2).make()
        return output


def made(value: Any) -> Any:
    """Return the tree with everything described in it made."""
    if isinstance(value, dict):
        return {key: made(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(made(item) for item in value)
    return value.make() if hasattr(value, "make") else value
