"""Weight patches that are classes: of ComfyUI's, two."""

from dataclasses import dataclass
from typing import Any

import torch


@dataclass
class WeightAdapterBase:
    """A patch: the keys of its file, and its tensors and numbers."""

    loaded_keys: set[str]
    weights: tuple[Any, ...]


class LoRAAdapter(WeightAdapterBase):
    """A product of two matrices."""

    def difference(self, weight: torch.Tensor) -> torch.Tensor:
        """Return what is added at strength 1."""
        up, down, alpha = self.weights[:3]
        scale = 1.0 if alpha is None else alpha / down.shape[0]
        return (scale * (up @ down)).reshape(weight.shape)


class LoKrAdapter(WeightAdapterBase):
    """A Kronecker product."""


# As in ComfyUI, where each class has a module of its own.
LoRAAdapter.__module__ = "comfy.weight_adapter.lora"
LoKrAdapter.__module__ = "comfy.weight_adapter.lokr"
