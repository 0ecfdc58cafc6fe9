"""The test by ComfyUI's own code of whether it would skip a weight patch that does not fit its weight.

ComfyUI has many kinds of patches, each with its own way to fail: some are skipped with a line in the log, some end
the run. These rules differ between releases, so ComfyUI's own function is run, on tensors without data.
"""

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

# The adapters whose alpha bounds a norm: that cannot be compared without data.
_BOUNDS_BY_ALPHA = frozenset({"OFTAdapter", "BOFTAdapter"})
_ALPHA = 2


def shape_if_skipped(key: str, patch: Any, shape: Shape) -> Shape | None:
    """Return the shape that a weight has after ComfyUI has skipped a patch, or None if it does not skip it.

    ComfyUI's own code is run on the meta device. It adds a patch to the weight in place, so a weight whose version
    counter has not changed had nothing added. This is a `ShapeIfSkipped` of `wire.patch_writer`.

    Args:
        key: the weight's key.
        patch: the patch as ComfyUI has it: strength, value, strength of the model, offset, function.
        shape: of the weight, or of the part of it that the patch is for.

    Returns:
        The shape, which differs from `shape` if ComfyUI has padded the weight first. None also if ComfyUI fails.
    """
    strength, value, _, _, function = patch
    # Tensors made in inference mode have no version counter.
    with torch.inference_mode(False), torch.no_grad(), _without_its_log():
        weight = torch.empty(shape, device="meta")
        given = (strength, _without_data(value), 1.0, None, function)
        try:
            result = comfy.lora.calculate_weight([given], weight, key)
        except Exception:  # a pack's own patch may raise anything
            return None
        changes = result._version
    # Padding makes a larger tensor and writes the weight into it: one change that adds no patch.
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
    """A filter that drops this thread's records and passes those of other threads."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()

    def filter(self, record: logging.LogRecord) -> bool:
        return record.thread != self._thread


@contextmanager
def _without_its_log() -> Iterator[None]:
    """Keep ComfyUI's messages of this block out of the log: no run has begun. It logs to the root logger."""
    root, quiet = logging.getLogger(), _NotOfThread()
    root.addFilter(quiet)
    try:
        yield
    finally:
        root.removeFilter(quiet)
