"""Tensors for property tests: any bit pattern, any layout, repetitive enough that codecs take them."""

from __future__ import annotations

import math

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
    """Return the elements as bytes. Equal bytes are equal tensors, NaNs and signs of zero included."""
    return bytes(tensor_bytes(tensor))


def of_bytes(data: bytes, dtype: torch.dtype, shape: tuple[int, ...] | None = None) -> torch.Tensor:
    """Return the tensor of these bytes; without a shape flat, and without a last incomplete element."""
    count = len(data) // dtype.itemsize
    buffer = allocate(count * dtype.itemsize)
    buffer[:] = data[: count * dtype.itemsize]
    return tensor_from(buffer, dtype, (count,) if shape is None else shape)


@st.composite
def tensors(draw: st.DrawFn) -> tuple[str, torch.Tensor]:
    """Draw a dtype's name and a flat tensor of it: arbitrary bytes, repeated up to some tens of KB."""
    name = draw(st.sampled_from(sorted(DTYPES)))
    data = draw(st.binary(min_size=0, max_size=300)) * draw(st.integers(1, 200))
    if name == "BOOL":
        data = bytes(byte & 1 for byte in data)
    return name, of_bytes(data, DTYPES[name])


def special_values(dtype: torch.dtype) -> torch.Tensor:
    """Return values that careless code loses: signed zeros, subnormals, infinities, extremes, odd NaNs."""
    info = torch.finfo(dtype)
    values = [0.0, -0.0, 1.0, -1.0, info.tiny, -info.tiny, info.smallest_normal, info.max, info.min]
    plain = torch.tensor([*values, float("inf"), float("-inf"), float("nan")], dtype=dtype)
    # All bits set but one or none: NaNs of either sign whose payloads are not torch's own.
    nans = of_bytes(b"\xff" * dtype.itemsize + b"\xff" * (dtype.itemsize - 1) + b"\x7f", dtype)
    smallest = of_bytes(b"\x01" + bytes(dtype.itemsize - 1) + b"\x01" + bytes(dtype.itemsize - 2) + b"\x80", dtype)
    return torch.cat([plain, nans, smallest])


_SHAPES = st.one_of(
    st.lists(st.integers(0, 9), max_size=5),
    # Latents, video, tokens and pictures of odd sizes: what the lossy codecs take.
    st.sampled_from([[1, 4, 17, 19], [2, 3, 3, 11, 13], [2, 37, 31], [4, 1, 23, 29], [6, 5, 7, 9, 1, 1]]),
    st.lists(st.sampled_from([1, 1, 2]), min_size=8, max_size=16),
)


@st.composite
def any_layout(draw: st.DrawFn) -> torch.Tensor:
    """Draw a tensor of any dtype that can be sent: any shape, layout and bits, noisy and repeating."""
    name = draw(st.sampled_from(sorted(DTYPES)))
    shape = tuple(draw(_SHAPES))
    tensor = of_bytes(_content(draw, name, math.prod(shape)), DTYPES[name], shape)
    layout = draw(st.sampled_from(["plain", "transposed", "sliced", "expanded", "repeated"]))
    if not shape or layout == "plain":
        return tensor
    if layout == "transposed":
        return tensor.transpose(0, -1)
    if layout == "sliced":
        return tensor[..., ::2]
    if layout == "expanded":
        return tensor.unsqueeze(0).expand(3, *shape)
    return of_bytes(2 * bits(tensor), tensor.dtype, (2 * shape[0], *shape[1:]))


def _content(draw: st.DrawFn, name: str, count: int) -> bytes:
    """Draw so many elements of that dtype, as bytes."""
    size = count * DTYPES[name].itemsize
    kind = draw(st.sampled_from(["repeated", "noise", "numbers"]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    if kind == "numbers" and name in FLOATS:
        numbers = torch.randn(count, generator=generator).mul(10.0 ** draw(st.integers(-6, 4))).to(FLOATS[name])
        if draw(st.booleans()) and count:
            special = special_values(FLOATS[name])
            numbers[: len(special)] = special[:count]
        return bits(numbers)
    if kind == "repeated":
        data = draw(st.binary(min_size=1, max_size=64))
        data = (data * (size // len(data) + 1))[:size]
    else:
        data = bits(torch.randint(0, 256, (size,), generator=generator, dtype=torch.uint8))
    return bytes(byte & 1 for byte in data) if name == "BOOL" else data
