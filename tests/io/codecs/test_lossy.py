"""The lossy codecs: what they lose stays within what they say, and what they do not take loses nothing."""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.support.tensors import FLOATS, bits, of_bytes, special_values

from comfy_gpu_offload.errors import CodecError
from comfy_gpu_offload.io import codecs
from comfy_gpu_offload.io.buffers import tensor_bytes, tensor_from
from comfy_gpu_offload.io.codecs.int4_block import Int4Block
from comfy_gpu_offload.io.codecs.int8_block import Int8Block
from comfy_gpu_offload.io.codecs.quantised import SEGMENT
from comfy_gpu_offload.io.dtypes import NAMES
from comfy_gpu_offload.io.frame import Part, decode, encode

Lossy = Int8Block | Int4Block
LOSSY: list[Lossy] = [Int8Block(), Int4Block()]
BLOCKWISE = [Int8Block, Int4Block]
TAKEN = [torch.bfloat16, torch.float16, torch.float32]

each_codec = pytest.mark.parametrize("codec", LOSSY, ids=lambda codec: codec.name)


def payload_of(codec: codecs.Codec, tensor: torch.Tensor) -> bytearray | None:
    payload = codec.encode(tensor_bytes(tensor), NAMES[tensor.dtype], tuple(tensor.shape))
    return None if payload is None else bytearray(payload)


def there_and_back(codec: codecs.Codec, tensor: torch.Tensor) -> torch.Tensor:
    payload = payload_of(codec, tensor)
    assert payload is not None
    assert len(payload) < tensor.nbytes
    data = codec.decode(memoryview(payload), tensor.nbytes, NAMES[tensor.dtype], tuple(tensor.shape))
    return tensor_from(data, tensor.dtype, tensor.shape)


def assert_within_bound(codec: Lossy, tensor: torch.Tensor, back: torch.Tensor) -> None:
    assert (back.dtype, back.shape) == (tensor.dtype, tensor.shape)
    assert torch.isfinite(back).all()
    assert ((back.double() - tensor.double()).abs() <= codec.max_error(tensor)).all()


@st.composite
def finite_tensors(draw: st.DrawFn) -> torch.Tensor:
    """Latents, tokens and video of any magnitude, and of bit patterns that no model makes."""
    dtype = draw(st.sampled_from(TAKEN))
    shape = draw(
        st.sampled_from([(1, 4, 16, 17), (2, 3, 2, 8, 11), (1, 40, 33), (3, 64, 8), (1, 1, 1025), (5, 1, 999)])
    )
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    count = math.prod(shape)
    if draw(st.booleans()):
        tensor = torch.randn(count, generator=generator).mul(2.0 ** draw(st.integers(-149, 125)))
        tensor[torch.rand(count, generator=generator) < draw(st.sampled_from([0.0, 0.1, 0.99]))] = 0
        tensor = tensor.clamp(torch.finfo(dtype).min, torch.finfo(dtype).max).to(dtype)
    else:
        noise = torch.randint(0, 256, (count * dtype.itemsize,), generator=generator, dtype=torch.uint8)
        tensor = noise.view(dtype).nan_to_num(posinf=torch.finfo(dtype).max, neginf=torch.finfo(dtype).min)
    tensor = tensor.view(shape)
    # Of copies one is stored, and blocks begin anew where it ends.
    return tensor.repeat(2, *[1] * (len(shape) - 1)) if draw(st.booleans()) else tensor


@given(finite_tensors(), st.sampled_from(BLOCKWISE), st.sampled_from([8, 16, 32, 64, 512, 4096]))
@settings(max_examples=400, deadline=None)
def test_blockwise_errors_stay_within_the_bound_stated(tensor: torch.Tensor, kind: Any, block: int) -> None:
    codec = kind(block=block)
    assume(payload_of(codec, tensor) is not None)
    assert_within_bound(codec, tensor, there_and_back(codec, tensor))


@each_codec
def test_the_largest_numbers_do_not_become_infinite(codec: Lossy) -> None:
    for dtype in TAKEN:
        tensor = torch.linspace(-1, 1, 4096).mul(torch.finfo(dtype).max).to(dtype).view(1, 4, 32, 32)
        assert_within_bound(codec, tensor, there_and_back(codec, tensor))


def test_the_bound_is_half_a_step() -> None:
    latent = torch.randn(1, 4, 32, 32)
    step = latent.view(-1, 64).abs().amax(1, keepdim=True).expand(-1, 64).reshape(latent.shape) / 127
    assert (Int8Block().max_error(latent) < 0.51 * step).all()
    step = latent.view(-1, 32).abs().amax(1, keepdim=True).expand(-1, 32).reshape(latent.shape) / 7
    assert (Int4Block().max_error(latent) < 0.51 * step).all()


def relative_l2(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


@pytest.mark.parametrize(
    ("codec", "most_lost", "most_bits"),
    [
        (Int8Block(), 0.0065, 7.9),
        (Int4Block(), 0.1000, 4.0),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
@pytest.mark.parametrize("dtype", TAKEN, ids=str)
def test_a_gaussian_latent_costs_what_was_measured(
    codec: Lossy, most_lost: float, most_bits: float, dtype: torch.dtype
) -> None:
    latent = torch.randn(1, 16, 128, 128, generator=torch.Generator().manual_seed(0)).to(dtype)
    payload = payload_of(codec, latent)
    assert payload is not None
    assert 8 * len(payload) / latent.numel() <= most_bits
    assert most_lost / 3 < relative_l2(there_and_back(codec, latent), latent) <= most_lost  # and lossy it was


@each_codec
@pytest.mark.parametrize(
    "shape", [(1, 2, SEGMENT // 2 + 5, 1), (1, 3, SEGMENT // 3 + 1000), (1, 1, 2 * SEGMENT + 3)]
)
def test_tensors_of_several_segments_stay_within_the_bound(codec: Lossy, shape: tuple[int, ...]) -> None:
    tensor = torch.randn(shape).bfloat16()
    assert_within_bound(codec, tensor, there_and_back(codec, tensor))


@each_codec
def test_zeros_stay_zeros_and_take_next_to_nothing(codec: Lossy) -> None:
    zeros = torch.zeros(1, 16, 64, 64, dtype=torch.bfloat16)
    assert torch.equal(there_and_back(codec, zeros), zeros)
    payload = payload_of(codec, zeros)
    assert payload is not None
    assert len(payload) < 200


UNTOUCHED = {
    "ids": torch.arange(4096).view(1, 64, 64),
    "mask": torch.rand(1, 64, 64) < 0.5,
    "float64": torch.randn(1, 64, 64, dtype=torch.float64),
    "float8": torch.randn(1, 64, 64).to(torch.float8_e4m3fn),
    "timesteps": torch.rand(4096),
    "pooled": torch.randn(2, 4096),
    "few": torch.randn(1, 1, 1023),
    "empty": torch.zeros(1, 0, 4096),
    "scalar": torch.tensor(0.3),
    "one nan": torch.randn(1, 64, 64).index_fill(1, torch.tensor([3]), float("nan")),
    "one infinity": torch.randn(1, 64, 64).index_fill(2, torch.tensor([3]), float("-inf")),
    "special values": special_values(FLOATS["F32"]).repeat(100).view(1, 4, -1),
}


@each_codec
@pytest.mark.parametrize("what", UNTOUCHED)
def test_what_is_no_latent_or_not_finite_travels_losslessly(codec: Lossy, what: str) -> None:
    tensor = UNTOUCHED[what]
    assert payload_of(codec, tensor) is None
    (received,) = decode(encode({}, None, [Part("x", tensor)], codec).joined()).tensors
    assert received.tensor is not None
    assert bits(received.tensor) == bits(tensor)


@each_codec
def test_a_tensor_with_a_digest_travels_losslessly_and_one_without_does_not(codec: Lossy) -> None:
    tensor = torch.randn(1, 16, 32, 32)
    frame = encode({}, None, [Part("a", tensor, bytes(32)), Part("b", tensor)], codec)
    exact, lossy = (received.tensor for received in decode(frame.joined()).tensors)
    assert exact is not None
    assert lossy is not None
    assert torch.equal(exact, tensor)
    assert not torch.equal(lossy, tensor)


@pytest.mark.parametrize("block", [0, 4, 7, 48, 8192, -64, 64.0, True, "64", None])
@pytest.mark.parametrize("kind", BLOCKWISE)
def test_blocks_that_are_none_are_refused(kind: type[codecs.Codec], block: Any) -> None:
    with pytest.raises(CodecError, match=kind.name):
        codecs.named(kind.name, {"block": block})


# --- payloads by hand: docs/codecs.md ------------------------------------------------------------------------


def planes_block(*planes: bytes) -> bytes:
    return b"".join(struct.pack("<BI", 0, len(plane)) for plane in planes) + b"".join(planes)


def scales_block(scales: list[float]) -> bytes:
    words = np.array(scales, np.float32).view(np.uint32) >> 16
    return planes_block(bytes((words << 1 | words >> 15).astype(np.uint8)), bytes((words >> 7).astype(np.uint8)))


SHAPE = (1, 2, 512)
RAMP = np.arange(1024) % 255 - 127


def int8_payload(scales: list[float], codes: np.ndarray) -> bytes:
    return b"\1\1" + scales_block(scales) + planes_block(codes.astype(np.int8).tobytes())


def decoded(codec: codecs.Codec, payload: bytes, dtype: str = "F32") -> torch.Tensor:
    size = 1024 * (4 if dtype == "F32" else 2)
    data = codec.decode(memoryview(payload), size, dtype, SHAPE)
    return tensor_from(data, torch.float32 if dtype == "F32" else torch.bfloat16, (1024,))


def test_the_payloads_are_as_specified() -> None:
    ramp = torch.from_numpy(RAMP).float()
    two = torch.tensor([0.5, 2.0]).repeat_interleave(512)
    assert torch.equal(decoded(Int8Block(512), int8_payload([0.5, 2], RAMP)), ramp * two)
    nibbles = RAMP % 15 - 7
    packed = ((nibbles[::2] & 15) | (nibbles[1::2] & 15) << 4).astype(np.uint8).tobytes()
    four = decoded(Int4Block(512), b"\1\1" + scales_block([0.5, 2]) + planes_block(packed))
    assert torch.equal(four, torch.from_numpy(nibbles).float() * two)


GOOD = int8_payload([0.5, 2], RAMP)
MALFORMED = {
    "nothing": b"",
    "another version": b"\2" + GOOD[1:],
    "copies that do not divide the tensor": b"\1\2" + GOOD[2:],
    "cut short": GOOD[:-1],
    "without codes": b"\1\1" + scales_block([0.5, 2]),
    "surplus": GOOD + b"x",
    "too few scales": int8_payload([0.5], RAMP),
    "too many scales": int8_payload([0.5, 2, 2], RAMP),
    "too few codes": int8_payload([0.5, 2], RAMP[1:]),
    "an infinite scale": int8_payload([0.5, math.inf], RAMP),
    "a scale that is no number": int8_payload([0.5, math.nan], RAMP),
    "a negative scale": int8_payload([0.5, -2], RAMP),
    "a code beyond the levels": int8_payload([0.5, 2], RAMP - 1),
}


@pytest.mark.parametrize("payload", MALFORMED.values(), ids=MALFORMED)
def test_malformed_payloads_are_refused(payload: bytes) -> None:
    with pytest.raises(CodecError):
        decoded(Int8Block(512), payload)


@pytest.mark.parametrize(
    ("codec", "codes"),
    [
        (Int8Block(512), b"\x80" * 1024),
        (Int4Block(512), b"\x08" * 512),
        (Int4Block(512), b"\x80" * 512),
    ],
)
def test_codes_that_stand_for_nothing_are_refused(codec: codecs.Codec, codes: bytes) -> None:
    with pytest.raises(CodecError):
        decoded(codec, b"\1\1" + scales_block([0.5, 2]) + planes_block(codes))


@each_codec
@pytest.mark.parametrize(
    ("dtype", "shape"), [("I16", (1, 2, 512)), ("F64", (1, 2, 512)), ("BF16", (1024,)), ("F32", (1, 1, 9))]
)
def test_tensors_that_are_never_stored_so_are_refused(codec: Lossy, dtype: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(CodecError):
        codec.decode(memoryview(GOOD), math.prod(shape) * 2, dtype, shape)


@each_codec
def test_infinities_have_no_bound(codec: Lossy) -> None:
    with pytest.raises(ValueError, match="losslessly"):
        codec.max_error(torch.full((1, 64, 64), math.inf))


def test_minus_zero_and_subnormals_are_within_the_bound_too() -> None:
    for dtype in TAKEN:
        smallest = of_bytes((b"\1" + bytes(dtype.itemsize - 1)) * 1024, dtype).view(1, 4, 16, 16)
        for codec in LOSSY:
            assert_within_bound(codec, smallest, there_and_back(codec, smallest))
            assert_within_bound(codec, -smallest * 0, there_and_back(codec, -smallest * 0))
