"""Tensors as byte buffers, without copying where the tensor allows it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from .strides import copied, moved

Buffer = bytes | bytearray | memoryview

# Of torch's own CPU allocations (c10/core/alignment.h).
ALIGNMENT = 64
_CPU = torch.device("cpu")


def tensor_bytes(tensor: torch.Tensor) -> memoryview:
    """Return the tensor's elements in row-major order, as bytes.

    A contiguous CPU tensor is not copied: the view shares its memory and keeps it alive. Any other tensor is copied
    once, to the CPU or to be contiguous.
    """
    if not tensor.is_cpu or tensor.is_conj() or tensor.is_neg() or not tensor.is_contiguous():
        tensor = tensor.detach().resolve_conj().resolve_neg().to(device="cpu").contiguous()
    return _view(tensor)


def tensor_from(buffer: memoryview, dtype: torch.dtype, shape: Sequence[int]) -> torch.Tensor:
    """Return a tensor of `dtype` and `shape` that shares the memory of `buffer`, which must be writable."""
    count = math.prod(shape)
    if count == 0:
        return torch.empty(tuple(shape), dtype=dtype, device="cpu")
    flat = torch.frombuffer(buffer, dtype=dtype, count=count)
    return flat if len(shape) == 1 else flat.view(tuple(shape))


def allocate(size_bytes: int) -> memoryview:
    """Return a writable buffer of `size_bytes` with undefined contents, aligned as torch aligns its tensors."""
    # torch gives 64-byte alignment and, unlike bytearray, does not clear the memory first.
    return _view(torch.empty(size_bytes, dtype=torch.uint8, device="cpu"))  # whatever the user's default device is


def on_host(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor on the CPU with its strides and without its autograd history; itself if it is that."""
    return tensor if tensor.is_cpu and not tensor.requires_grad else moved(tensor.detach(), _CPU)


def aligned(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor in memory that is aligned as torch's own: itself, or a copy.

    Only a frame's first tensor is sure to be aligned to 64 bytes, and CPU matrix products differ in the last
    bit with the alignment of their operands.
    """
    misaligned = tensor.is_cpu and tensor.data_ptr() % ALIGNMENT != 0
    return copied(tensor) if misaligned else tensor


class _Memory:
    """A tensor's memory for NumPy, by its array interface (version 3), which keeps the tensor alive."""

    __slots__ = ("__array_interface__", "_tensor")

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor
        self.__array_interface__ = {
            "data": (tensor.data_ptr(), False),
            "shape": (tensor.nbytes,),
            "typestr": "|u1",
            "version": 3,
        }


def _view(tensor: torch.Tensor) -> memoryview:
    """Return the bytes of a contiguous CPU tensor, in a third of the time that torch's own views take."""
    if tensor.nbytes == 0:
        return memoryview(bytearray())
    array: np.ndarray[tuple[int], np.dtype[np.uint8]] = np.asarray(_Memory(tensor))
    return memoryview(array)  # type: ignore[arg-type]  # an ndarray is a buffer; its stubs say so from 3.12 on
