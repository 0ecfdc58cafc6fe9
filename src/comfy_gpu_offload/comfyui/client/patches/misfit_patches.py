"""Weight patches that do not fit their weights: which of them ComfyUI passes over, found out by its own code."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import comfy.lora
import comfy.weight_adapter
import torch

from ...wire.patch_shapes import Shape

# Where an adapter's alpha bounds a norm, which cannot be compared without data.
_BOUNDS_BY_ALPHA = frozenset({"OFTAdapter", "BOFTAdapter"})
_ALPHA = 2


def passed_over(key: str, patch: Any, shape: Shape) -> Shape | None:
    """Return the shape that ComfyUI leaves a weight in where it passes over a patch: a `PassedOver`.

    ComfyUI's own code is run without data, on the meta device. What it adds it adds in place, so a weight that is
    as it was at the end had nothing added.

    Args:
        shape: of the weight, or of the part of it that the patch is for.

    Returns:
        None where ComfyUI adds the patch, or fails.
    """
    strength, value, _, _, function = patch
    # Tensors made in inference mode do not count their changes.
    with torch.inference_mode(False), torch.no_grad(), _without_its_log():
        weight = torch.empty(shape, device="meta")
        given = (strength, _without_data(value), 1.0, None, function)
        try:
            result = comfy.lora.calculate_weight([given], weight, key)
        except Exception:  # whatever a pack's own patch raises
            return None
        changes = result._version
    # Padding writes the weight into a larger one.
    return None if changes > int(result is not weight) else tuple(result.shape)


def _without_data(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return torch.empty(value.shape, dtype=value.dtype, device="meta")
    if isinstance(value, comfy.weight_adapter.WeightAdapterBase):
        weights = [_without_data(each) for each in value.weights]
        if type(value).__name__ in _BOUNDS_BY_ALPHA and weights[_ALPHA] is not None:
            weights[_ALPHA] = 0.0
        return type(value)(value.loaded_keys, tuple(weights))
    if isinstance(value, tuple | list):
        return type(value)(_without_data(each) for each in value)
    return value


class _NotOfThread(logging.Filter):
    """Let through what other threads log."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()

    def filter(self, record: logging.LogRecord) -> bool:
        return record.thread != self._thread


@contextmanager
def _without_its_log() -> Iterator[None]:
    """Keep ComfyUI from logging what is no run yet; it logs to the root logger."""
    root, quiet = logging.getLogger(), _NotOfThread()
    root.addFilter(quiet)
    try:
        yield
    finally:
        root.removeFilter(quiet)
