"""Calls of an audio encoder on the wire: ComfyUI's `encode_audio` as a whole, resampling included."""

from __future__ import annotations

from typing import Any, Final

import torch

PREFIX: Final = "audio_encoder:"
"""Before the name of a file, in a request for the module."""

ENCODE: Final = "encode_audio"
"""Its positional arguments are a waveform [B, C, N] and the samples per second, as ComfyUI's."""

SAMPLE_RATE: Final = "model_sample_rate"
"""The one fact of a description, beside the dtype: the samples per second that the network takes."""


def is_result(result: Any) -> bool:
    """Return whether that may be ComfyUI's result: by name tensors, rows of tensors (one a layer), and numbers."""
    return isinstance(result, dict) and all(
        isinstance(name, str) and _is_value(value) for name, value in result.items()
    )


def _is_value(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(isinstance(each, torch.Tensor) for each in value)
    return isinstance(value, torch.Tensor) or type(value) in {int, float, type(None)}
