"""Weights of a ComfyUI model beside its network: layers that prepare conditioning before the first call.

Sampling runs them where it is, so a stand-in needs them as they are. They are small: 2 MB for Stable Audio.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

_NETWORK = "diffusion_model."
# Their names in a model, and in its file: `comfy.supported_models`, `get_model`.
_IN_FILE = {
    "cc_projection.": "cc_projection.",
    "seconds_start_embedder.": "conditioner.conditioners.seconds_start.",
    "seconds_total_embedder.": "conditioner.conditioners.seconds_total.",
    "padding_embedding": "conditioner.conditioners.prompt.padding_embedding",
}


def auxiliary_weights(model: Any) -> dict[str, torch.Tensor]:
    """Return the parameters of a ComfyUI `BaseModel` that are not its network's, on the CPU."""
    named = model.named_parameters()
    return {name: weight.detach().cpu() for name, weight in named if not name.startswith(_NETWORK)}


def named_as_in_file(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the same weights under the names that a config's `get_model` looks for.

    Raises:
        KeyError: one is not known.
    """
    return {_name_in_file(name): weight for name, weight in weights.items()}


def _name_in_file(name: str) -> str:
    for start, other in _IN_FILE.items():
        if name.startswith(start):
            return other + name.removeprefix(start)
    raise KeyError(name)
