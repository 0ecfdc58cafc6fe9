"""Tensors for property tests: any bit pattern, any layout, repetitive enough that codecs take them."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from comfy_gpu_offload.io.buffers import allocate, tensor_bytes, tensor_from
from comfy_gpu_offload.io.dtypes import DTYPES

FLOATS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}


def bits(tensor: torch.Tensor) -> bytes:
    """The elements as bytes: what two tensors must share to be the same, NaNs and signs of zero included."""
    return bytes(tensor_bytes(tensor))


def of_bytes(data: bytes, dtype: torch.dtype, shape: tuple[int, ...] | None = None) -> torch.Tensor:
    """The tensor made of these bytes; flat, without a last broken element, where no shape is given."""
    count = len(data) // dtype.itemsize
    buffer = allocate(count * dtype.itemsize)
    buffer[:] = data[: count * dtype.itemsize]
    return tensor_from(buffer, dtype, (count,) if shape is None else shape)


@st.composite
def tensors(draw: st.DrawFn) -> tuple[str, torch.Tensor]:
    """A dtype's name and a flat tensor of it: arbitrary bytes, repeated up to some tens of KB."""
    name = draw(st.sampled_from(sorted(DTYPES)))
    data = draw(st.binary(min_size=0, max_size=300)) * draw(st.integers(1, 200))
    if name == "BOOL":
        data = bytes(byte & 1 for byte in data)
    return name, of_bytes(data, DTYPES[name])


def special_values(dtype: torch.dtype) -> torch.Tensor:
    """What a careless coding loses: signed zeros, subnormals, infinities, extremes, NaNs with payloads."""
    info = torch.finfo(dtype)
    values = [0.0, -0.0, 1.0, -1.0, info.tiny, -info.tiny, info.smallest_normal, info.max, info.min]
    plain = torch.tensor([*values, float("inf"), float("-inf"), float("nan")], dtype=dtype)
    # All bits set but one or none: NaNs of either sign whose payloads are not torch's own.
    nans = of_bytes(b"\xff" * dtype.itemsize + b"\xff" * (dtype.itemsize - 1) + b"\x7f", dtype)
    smallest = of_bytes(b"\x01" + bytes(dtype.itemsize - 1) + b"\x01" + bytes(dtype.itemsize - 2) + b"\x80", dtype)
    return torch.cat([plain, nans, smallest])
