"""The least size that a code can reach which looks at elements one by one.

The bound is the order-0 entropy (Shannon 1948, theorem 9) of the elements' exponents, one bit for the sign, and the
order-0 entropy of the first ten bits of their mantissas; further bits, which only float32 has, count in full, since
a tensor has too few elements to tell. A code that sees elements repeat takes less.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from comfy_gpu_offload.io.buffers import tensor_bytes

# Exponent bits and mantissa bits.
_FIELDS = {torch.bfloat16: (8, 7), torch.float16: (5, 10), torch.float32: (8, 23)}
_COUNTED_BITS = 10


def bound_bytes(tensors: Sequence[torch.Tensor]) -> float | None:
    """Bytes that all of them take by the bound, each with its own statistics; None if one is of no such dtype."""
    if any(tensor.dtype not in _FIELDS for tensor in tensors):
        return None
    return sum(_bits(tensor) * tensor.numel() for tensor in tensors) / 8


def _bits(tensor: torch.Tensor) -> float:
    exponent_bits, mantissa_bits = _FIELDS[tensor.dtype]
    words = np.frombuffer(tensor_bytes(tensor), f"<u{tensor.element_size()}")
    exponents = (words >> mantissa_bits) & ((1 << exponent_bits) - 1)
    counted = min(mantissa_bits, _COUNTED_BITS)
    first = (words >> (mantissa_bits - counted)) & ((1 << counted) - 1)
    return 1 + _entropy(exponents) + _entropy(first) + mantissa_bits - counted


def _entropy(values: np.ndarray[Any, Any]) -> float:
    _, counts = np.unique(values, return_counts=True)
    shares = counts / counts.sum()
    return float(-(shares * np.log2(shares)).sum())
