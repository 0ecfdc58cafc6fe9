"""Tensors for a worker of an older release, which cannot restore strides."""

from __future__ import annotations

import torch

from ...errors import UnsupportedValueError
from ...io.strides import with_strides
from ...io.tree import PackedTree
from ...protocol.capabilities import STRIDES


def plain_tensors(packed: PackedTree, host: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Return the tensors of `packed`, given on the CPU as `host`, with row-major strides.

    Raises:
        UnsupportedValueError: a tensor is not contiguous, and a model's result may depend on that.
    """
    for path, tensor in zip(packed.paths, host, strict=True):
        if not tensor.is_contiguous():
            raise UnsupportedValueError(
                path,
                f"tensor with the strides {tensor.stride()}",
                f"the worker lacks the capability {STRIDES!r}: update comfy-gpu-offload there",
            )
    return tuple(with_strides(tensor, None) for tensor in host)
