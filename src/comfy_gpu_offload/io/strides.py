"""Strides, the order of elements in memory: torch chooses kernels by them, which differ in the last bit."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import numpy as np
import torch

Strides = tuple[int, ...]

# A view with gaps may take so many times the memory of its elements at the receiver, or so little altogether.
_MOST_MEMORY: Final = 64
_LITTLE_BYTES: Final = 4 * 1024**2
# By width in bytes: torch can copy integers of every width, but not every dtype.
_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@lru_cache(maxsize=1024)
def plain_strides(shape: tuple[int, ...]) -> Strides:
    """Return the strides that torch gives a new tensor of `shape`."""
    made, step = [], 1
    for size in reversed(shape):
        made.append(step)
        step *= max(size, 1)
    return tuple(reversed(made))


def strides_of(tensor: torch.Tensor) -> Strides | None:
    """Return the strides with which to send a tensor, or None if they are row-major.

    They are its own, even those of dimensions of size 1, by which torch tells memory formats apart. Only if a view
    has so much memory between its elements that `are_strides` refuses it, the gaps are closed, in the same order.
    """
    shape, strides = tuple(tensor.shape), tensor.stride()
    if strides == plain_strides(shape) or not tensor.numel():
        return None
    if are_strides(shape, strides, tensor.itemsize):
        return strides
    closed = _closed(shape, strides)
    return None if closed == plain_strides(shape) else closed


def are_strides(shape: Sequence[int], strides: Sequence[int], itemsize: int) -> bool:
    """Return whether a tensor of that shape, not empty, may have these strides: in any order, repeats included.

    False if they take over 64 times the memory of the elements and over 4 MiB: a few numbers in a frame must not
    make the receiver allocate much.
    """
    if len(strides) != len(shape) or not all(0 <= stride < 2**62 for stride in strides):
        return False
    return span(shape, strides) * itemsize <= max(_LITTLE_BYTES, _MOST_MEMORY * itemsize * _count(shape))


def span(shape: Sequence[int], strides: Sequence[int]) -> int:
    """Return how many elements of memory a tensor, not empty, spans from its first to its last."""
    return 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))


def with_strides(tensor: torch.Tensor, strides: Strides | None) -> torch.Tensor:
    """Return a CPU tensor with these strides, row-major ones for None; itself if it has them."""
    shape = tuple(tensor.shape)
    wanted = plain_strides(shape) if strides is None else strides
    if tensor.stride() == wanted or not tensor.numel():
        return tensor
    made = torch.empty_strided(shape, wanted, dtype=tensor.dtype, device="cpu")
    word = _WORDS[tensor.itemsize]
    if _overlaps(shape, wanted):
        _write_overlapping(made.view(word), tensor.view(word))
    else:
        made.view(word).copy_(tensor.view(word))
    return made


def moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return the tensor on `device` with its strides; itself if it is there."""
    if tensor.device == device or not _is_view(tensor):
        return tensor.to(device)
    return _window(tensor).to(device).as_strided(tensor.shape, tensor.stride())


def copied(tensor: torch.Tensor) -> torch.Tensor:
    """Return a copy with the same strides, in memory of its own."""
    if not _is_view(tensor):
        return tensor.clone()
    return _window(tensor).clone().as_strided(tensor.shape, tensor.stride(), 0)


def memory_bytes(tensor: torch.Tensor) -> int:
    """Return the memory that `copied` takes."""
    return span(tensor.shape, tensor.stride()) * tensor.itemsize if _is_view(tensor) else tensor.nbytes


def _is_view(tensor: torch.Tensor) -> bool:
    """Return whether torch's own copies would have other strides, because there are gaps or repeats."""
    if tensor.is_contiguous() or _is_dense(tensor.shape, tensor.stride()):
        return False
    return are_strides(tensor.shape, tensor.stride(), tensor.itemsize)


def _window(tensor: torch.Tensor) -> torch.Tensor:
    """Return the memory that a tensor spans, as a flat tensor."""
    return tensor.as_strided((span(tensor.shape, tensor.stride()),), (1,))


def _is_dense(shape: Sequence[int], strides: Sequence[int]) -> bool:
    step = 1
    for stride, size in _inner_first(shape, strides):
        if stride != step:
            return False
        step *= size
    return True


def _overlaps(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Return whether elements may share memory; also True for the few that interleave without that."""
    reach = 0
    for stride, size in _inner_first(shape, strides):
        if stride <= reach:
            return True
        reach += (size - 1) * stride
    return False


def _inner_first(shape: Sequence[int], strides: Sequence[int]) -> list[tuple[int, int]]:
    return sorted((stride, size) for stride, size in zip(strides, shape, strict=True) if size > 1)


def _write_overlapping(words: torch.Tensor, values: torch.Tensor) -> None:
    """Write to elements that share memory, which torch refuses; elements that do are equal."""
    window = words.as_strided((span(words.shape, words.stride()),), (1,)).numpy()
    steps = [stride * words.itemsize for stride in words.stride()]
    np.copyto(np.lib.stride_tricks.as_strided(window, tuple(words.shape), steps), values.numpy())


def _closed(shape: Sequence[int], strides: Sequence[int]) -> Strides:
    """Return strides of the same order without gaps; repeated elements stay repeated."""
    made, step = list(strides), 1
    for at in sorted(range(len(shape)), key=lambda at: (strides[at], -at)):
        if strides[at] == 0 and shape[at] > 1:
            continue
        made[at] = step
        step *= shape[at]
    return tuple(made)


def _count(shape: Sequence[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
