"""Tensors as byte buffers, without copying where the tensor allows it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

Buffer = bytes | bytearray | memoryview

# Of torch's own CPU allocations (c10/core/alignment.h).
ALIGNMENT = 64


def tensor_bytes(tensor: torch.Tensor) -> memoryview:
    """The tensor's elements in row-major order, as bytes.

    A contiguous CPU tensor is not copied: the view shares its memory and keeps it alive. Any other is copied
    once, by the move to the CPU or by becoming contiguous.
    """
    if tensor.device.type != "cpu" or tensor.is_conj() or tensor.is_neg() or not tensor.is_contiguous():
        tensor = tensor.detach().resolve_conj().resolve_neg().to(device="cpu").contiguous()
    flat = tensor.detach().view(-1)
    if flat.stride(0) != 1:  # a single element that was expanded or sliced counts as contiguous all the same
        flat = flat.as_strided((flat.numel(),), (1,))
    return _view(flat)


def tensor_from(buffer: memoryview, dtype: torch.dtype, shape: Sequence[int]) -> torch.Tensor:
    """A tensor of `dtype` and `shape` over `buffer`, which must be writable: the two share memory."""
    count = math.prod(shape)
    if count == 0:
        return torch.empty(tuple(shape), dtype=dtype)
    return torch.frombuffer(buffer, dtype=dtype, count=count).view(tuple(shape))


def allocate(size_bytes: int) -> memoryview:
    """A writable buffer of `size_bytes`, its contents undefined, aligned as torch aligns its tensors."""
    # torch gives 64-byte alignment and, unlike bytearray, does not clear the memory first.
    return _view(torch.empty(size_bytes, dtype=torch.uint8))


def aligned(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor where a computation may use it: itself, or a copy if its memory is not aligned as torch's own.

    Only a frame's first tensor is sure to be aligned to 64 bytes, and CPU matrix products differ in the last
    bit with the alignment of their operands.
    """
    misaligned = tensor.device.type == "cpu" and tensor.data_ptr() % ALIGNMENT != 0
    return tensor.clone() if misaligned else tensor


def _view(flat: torch.Tensor) -> memoryview:
    # NumPy has no bfloat16 and no float8, so every dtype goes as uint8.
    array: np.ndarray[tuple[int], np.dtype[np.uint8]] = flat.view(torch.uint8).numpy()
    return memoryview(array)  # type: ignore[arg-type]  # an ndarray is a buffer; its stubs say so from 3.12 on
