from __future__ import annotations

import math
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.tensors import FLOATS, bits, of_bytes, special_values

from comfy_gpu_offload.errors import CodecError
from comfy_gpu_offload.io import codecs
from comfy_gpu_offload.io.buffers import tensor_bytes
from comfy_gpu_offload.io.codecs.picture import Picture
from comfy_gpu_offload.io.codecs.planes import BLOCK_BYTES
from comfy_gpu_offload.io.dtypes import DTYPES, NAMES

PICTURE = Picture()


def encoded(tensor: torch.Tensor) -> bytearray:
    payload = PICTURE.encode(tensor_bytes(tensor), NAMES[tensor.dtype], tuple(tensor.shape))
    assert payload is not None
    return bytearray(payload)


def decoded(payload: bytes | bytearray, dtype: str, *shape: int) -> memoryview:
    size = math.prod(shape) * DTYPES[dtype].itemsize
    return PICTURE.decode(memoryview(payload), size, dtype, shape)


def assert_comes_back(tensor: torch.Tensor) -> bytearray:
    payload = encoded(tensor)
    assert decoded(payload, NAMES[tensor.dtype], *tensor.shape) == bits(tensor)
    return payload


def shaded(*shape: int, seed: int = 0) -> torch.Tensor:
    """Return a smooth field with a little grain, from -1 to 1, whose last two dimensions are rows and columns."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.linspace(0, 5, shape[-2])[:, None], torch.linspace(0, 7, shape[-1])
    phases = torch.rand(*shape[:-2], 1, 1, generator=generator)
    grain = torch.randn(shape, generator=generator) / 400
    return (torch.sin(rows + phases) * torch.cos(columns * (1 + phases)) + grain).clamp(-1, 1)


FLOATING = [torch.bfloat16, torch.float16, torch.float32]


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize(
    "picture",
    [shaded(1, 3, 256, 300), shaded(3, 256, 300).movedim(0, -1).contiguous()[None], shaded(1, 3, 5, 96, 100)],
    ids=["channels first", "channels last", "video"],
)
def test_pictures_take_clearly_less_than_by_planes(picture: torch.Tensor, dtype: torch.dtype) -> None:
    tensor = picture.to(dtype)
    planes = codecs.PLANES.encode(tensor_bytes(tensor), NAMES[dtype], tuple(tensor.shape))
    assert planes is not None
    least_share = {torch.bfloat16: 0.8, torch.float16: 0.92, torch.float32: 0.98}[dtype]
    assert len(assert_comes_back(tensor)) < least_share * len(planes)


def test_8_bit_pictures_shrink_too() -> None:
    levels = ((shaded(1, 256, 300, 1).movedim(1, -1) + 1) * 127.5).to(torch.uint8)
    assert len(assert_comes_back(levels)) < 0.75 * levels.nbytes


def test_a_frame_that_stands_still_takes_next_to_nothing() -> None:
    noise = torch.randn(1, 1, 1, 300, 300, generator=torch.Generator().manual_seed(0)).bfloat16()
    video = torch.cat([noise + 1, noise.repeat(1, 1, 9, 1, 1)], dim=2)
    # `noise` twice (its first frame differs) and a little for each of the others.
    assert len(assert_comes_back(video)) < 2.2 * len(encoded(noise))


def test_noise_takes_no_more_than_by_planes_and_a_few_bytes() -> None:
    for dtype in FLOATING:
        latent = torch.randn(1, 16, 96, 97, generator=torch.Generator().manual_seed(0)).to(dtype)
        planes = codecs.PLANES.encode(tensor_bytes(latent), NAMES[dtype], tuple(latent.shape))
        assert planes is not None
        assert len(assert_comes_back(latent)) <= len(planes) + 64


@given(
    name=st.sampled_from(["F32", "F16", "BF16", "U8", "I16", "F64", "C64"]),
    # Rows, channels and frames at odd distances, across several blocks.
    shape=st.sampled_from([(2, 3, 301, 307), (1, 5, 211, 307, 3), (300_001,), (1, 4, 31, 9001), (7, 1, 40_001, 1)]),
    slope=st.integers(0, 9),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_slopes_with_noise_come_back_whatever_their_shape(
    name: str, shape: tuple[int, ...], slope: int, seed: int
) -> None:
    width = DTYPES[name].itemsize
    generator = np.random.default_rng(seed)
    words = np.arange(math.prod(shape), dtype=np.int64) * slope // 7 + generator.integers(0, 16, math.prod(shape))
    data = words.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :width].tobytes()
    assert_comes_back(of_bytes(data, DTYPES[name], shape))


@pytest.mark.parametrize("name", sorted(FLOATS))
def test_special_values_come_back_bit_for_bit(name: str) -> None:
    assert_comes_back(special_values(FLOATS[name]).repeat(300).view(1, 3, -1))


def test_every_16_bit_pattern_comes_back_in_either_order() -> None:
    for patterns in (np.arange(1 << 16), np.arange(1 << 16)[::-1] * 40_503):
        assert_comes_back(of_bytes(patterns.astype("<u2").tobytes() * 2, torch.bfloat16, (1, 2, 256, 256)))


# --- payloads by hand: docs/codecs.md ------------------------------------------------------------------------


def block(distance: int, *planes: bytes) -> bytes:
    heads = b"".join(struct.pack("<BI", 0, len(plane)) for plane in planes)
    return struct.pack("<I", distance) + heads + b"".join(planes)


def test_the_payload_is_as_specified() -> None:
    # 0, -1, 1, -2 are stored as 0, 1, 2, 3.
    assert decoded(b"\1\1" + block(1, bytes([20, 0, 1, 2, 3])), "U8", 5) == bytes([10, 10, 9, 10, 8])
    assert decoded(b"\1\1" + block(2, bytes([20, 40, 2, 4])), "U8", 4) == bytes([10, 20, 11, 22])
    assert decoded(b"\1\2" + block(1, bytes([2, 2])), "U8", 4) == bytes([1, 2, 1, 2])
    # Words that are stored as they are have their sign rotated, differences do not.
    assert decoded(b"\1\1" + block(0, b"\1", b"\x7f"), "BF16", 1) == b"\x80\xbf"
    assert decoded(b"\1\1" + block(1, b"\2\2", b"\0\0"), "BF16", 2) == b"\1\0\2\0"
    assert decoded(b"\1\1" + block(1, b"\1\2", b"\0\0"), "BF16", 2) == b"\xff\xff\0\0"


@pytest.mark.parametrize("distance", [1, 3, 63, 64, 1000, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1])
def test_distances_reach_into_the_blocks_before(distance: int) -> None:
    count = 2 * BLOCK_BYTES + 77
    differences = np.random.default_rng(0).integers(-5, 6, count)
    folded = np.where(differences < 0, -2 * differences - 1, 2 * differences).astype(np.uint8)
    payload = b"\1\1" + b"".join(
        block(distance, folded[begin : begin + BLOCK_BYTES].tobytes()) for begin in range(0, count, BLOCK_BYTES)
    )
    expected = np.zeros(-(-count // distance) * distance, np.int64)
    expected[:count] = differences
    expected = expected.reshape(-1, distance).cumsum(axis=0).reshape(-1)[:count]
    assert decoded(payload, "U8", count) == (expected % 256).astype(np.uint8).tobytes()


@pytest.mark.parametrize("distance", [4, 5, 2**32 - 1])
def test_distances_beyond_the_tensor_are_refused(distance: int) -> None:
    with pytest.raises(CodecError, match="distance"):
        decoded(b"\1\1" + block(distance, b"abcd"), "U8", 4)
