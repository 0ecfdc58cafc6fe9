from __future__ import annotations

import math
import struct

import numpy as np
import pytest
import torch
import zstandard
from hypothesis import given, settings
from tests.support.tensors import FLOATS, bits, of_bytes, special_values, tensors

from comfy_gpu_offload.errors import CodecError
from comfy_gpu_offload.io import codecs
from comfy_gpu_offload.io.buffers import tensor_bytes
from comfy_gpu_offload.io.codecs.planes import BLOCK_BYTES
from comfy_gpu_offload.io.dtypes import DTYPES

PLANES = codecs.PLANES


def encoded(name: str, tensor: torch.Tensor) -> bytearray:
    payload = PLANES.encode(tensor_bytes(tensor), name, tuple(tensor.shape))
    assert payload is not None
    return bytearray(payload)


def decoded(payload: bytes | bytearray, name: str, count: int) -> memoryview:
    return PLANES.decode(memoryview(payload), count * DTYPES[name].itemsize, name, (count,))


@given(tensors())
@settings(max_examples=300, deadline=None)
def test_what_is_encoded_is_smaller_and_comes_back_bit_for_bit(case: tuple[str, torch.Tensor]) -> None:
    name, tensor = case
    payload = PLANES.encode(tensor_bytes(tensor), name, tuple(tensor.shape))
    if payload is not None:
        assert len(payload) < tensor.nbytes
        assert decoded(payload, name, tensor.numel()) == bits(tensor)


@pytest.mark.parametrize("name", sorted(DTYPES))
def test_every_dtype_with_repeated_elements_is_made_smaller(name: str) -> None:
    tensor = of_bytes(b"\0\1" * 5000, DTYPES[name])
    payload = encoded(name, tensor)
    assert len(payload) < tensor.nbytes / 10
    assert decoded(payload, name, tensor.numel()) == bits(tensor)


@pytest.mark.parametrize("name", sorted(FLOATS))
def test_special_values_come_back_bit_for_bit(name: str) -> None:
    tensor = special_values(FLOATS[name]).repeat(200)
    assert decoded(encoded(name, tensor), name, tensor.numel()) == bits(tensor)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int16], ids=str)
def test_every_16_bit_pattern_comes_back(dtype: torch.dtype) -> None:
    name = "BF16" if dtype is torch.bfloat16 else "I16"
    every = of_bytes(np.arange(1 << 16, dtype="<u2").tobytes(), dtype)
    assert decoded(encoded(name, every), name, 1 << 16) == bits(every)


@pytest.mark.parametrize("count", [BLOCK_BYTES // 2 - 1, BLOCK_BYTES // 2, BLOCK_BYTES // 2 + 1, BLOCK_BYTES + 7])
@pytest.mark.parametrize("name", ["BF16", "F32", "I64", "U8"])
def test_tensors_of_one_and_of_several_blocks_come_back(name: str, count: int) -> None:
    tensor = (torch.randn(count) * 9).to(DTYPES[name])
    payload = encoded(name, tensor)
    assert decoded(payload, name, count) == bits(tensor)


def order_0_bits(tensor: torch.Tensor, exponent_bits: int) -> float:
    """Bits an element, of a code that knows only how often each exponent and each mantissa occurs."""
    words = tensor.view(torch.int16).numpy().view("<u2")
    mantissa_bits = 15 - exponent_bits
    fields = ((words & 0x7FFF) >> mantissa_bits, words & ((1 << mantissa_bits) - 1))
    return 1 + sum(_entropy(field) for field in fields)


def _entropy(field: np.ndarray) -> float:
    _, counts = np.unique(field, return_counts=True)
    shares = counts / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


@pytest.mark.parametrize(("name", "exponent_bits", "share"), [("BF16", 8, 0.98), ("F16", 5, 0.99)])
@pytest.mark.parametrize("scale", [1.0, 0.03, 14.6])
def test_gaussian_latents_come_close_to_what_their_elements_alone_allow(
    name: str, exponent_bits: int, share: float, scale: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    latent = (torch.randn(16, 128, 128, generator=generator) * scale).to(FLOATS[name])
    bound = order_0_bits(latent, exponent_bits) * latent.numel() / 8
    assert bound / len(encoded(name, latent)) >= share


def test_gaussian_float32_shrinks_by_its_exponents() -> None:
    latent = torch.randn(16, 128, 128, generator=torch.Generator().manual_seed(0))
    assert latent.nbytes / len(encoded("F32", latent)) > 1.19


def test_padding_is_found_in_every_plane() -> None:
    context = torch.zeros(1, 512, 4096, dtype=torch.bfloat16)
    context[:, :20] = torch.randn(1, 20, 4096).bfloat16()
    assert len(encoded("BF16", context)) < context.nbytes / 35


def test_small_ids_take_little_of_their_eight_bytes() -> None:
    ids = torch.randint(0, 256, (4096,))
    assert len(encoded("I64", ids)) < 4096 * 1.1


@pytest.mark.parametrize("tensor", [torch.zeros(4), torch.zeros(0), torch.randint(0, 256, (99_999,)).byte()])
def test_what_is_tiny_or_noise_is_left_alone(tensor: torch.Tensor) -> None:
    name = "F32" if tensor.dtype is torch.float32 else "U8"
    assert PLANES.encode(tensor_bytes(tensor), name, tuple(tensor.shape)) is None


# --- payloads by hand: docs/codecs.md ------------------------------------------------------------------------


def payload_of(*planes: tuple[int, bytes], version: int = 1, copies: int = 1) -> bytes:
    heads = b"".join(struct.pack("<BI", method, len(data)) for method, data in planes)
    return bytes([version, copies]) + heads + b"".join(data for _, data in planes)


def frame(data: bytes, **options: bool) -> bytes:
    return zstandard.ZstdCompressor(**options).compress(data)


def test_the_payload_is_as_specified() -> None:
    # bfloat16 1, -2, 0.5, -1.75: exponents 127, 128, 126, 127; mantissa and sign in the low plane.
    low, high = bytes([0x00, 0x01, 0x00, 0xC1]), bytes([127, 128, 126, 127])
    expected = torch.tensor([1, -2, 0.5, -1.75], dtype=torch.bfloat16)
    for payload in (payload_of((0, low), (0, high)), payload_of((0, low), (1, frame(high)))):
        assert decoded(payload, "BF16", 4) == bits(expected)
    assert decoded(payload_of((0, b"\1\2"), (0, b"\3\4")), "I16", 2) == b"\1\3\2\4"
    assert decoded(payload_of((1, frame(b"abc"))), "U8", 3) == b"abc"
    assert decoded(payload_of((0, b"abc"), copies=2), "U8", 6) == b"abcabc"


GOOD = payload_of((0, b"abcd"), (1, frame(b"efgh")))
MALFORMED = {
    "nothing": b"",
    "another version": payload_of((0, b"abcd"), (0, b"efgh"), version=2),
    "half a beginning": b"\1",
    "no block": b"\1\1",
    "no copy": payload_of((0, b"abcd"), (0, b"efgh"), copies=0),
    "copies that do not divide the tensor": payload_of((0, b"a"), (0, b"b"), copies=3),
    "more copies than are ever made": payload_of(copies=9),
    "copies of another size": payload_of((0, b"abcd"), (0, b"efgh"), copies=2),
    "half a head": GOOD[:9],
    "a plane cut short": GOOD[:-1],
    "a plane of another length": payload_of((0, b"abc"), (0, b"efgh")),
    "an unknown method": payload_of((2, b"abcd"), (0, b"efgh")),
    "no zstd": payload_of((0, b"abcd"), (1, b"efgh")),
    "zstd that holds less": payload_of((0, b"abcd"), (1, frame(b"efg"))),
    "zstd that holds more": payload_of((0, b"abcd"), (1, frame(b"efghi"))),
    "zstd that does not say what it holds": payload_of((0, b"abcd"), (1, frame(b"efgh", write_content_size=False))),
    "two zstd frames": payload_of((0, b"abcd"), (1, frame(b"efgh") + frame(b"efgh"))),
    "a skippable frame": payload_of((0, b"abcd"), (1, b"\x50\x2a\x4d\x18\x04\0\0\0efgh")),
    "surplus bytes": GOOD + b"x",
    "a surplus block": GOOD + GOOD[2:],
}


@pytest.mark.parametrize("payload", MALFORMED.values(), ids=MALFORMED)
def test_malformed_payloads_are_refused(payload: bytes) -> None:
    assert decoded(GOOD, "I16", 4) == b"aebfcgdh"
    with pytest.raises(CodecError):
        decoded(payload, "I16", 4)


@pytest.mark.parametrize("shape", [(0,), (1 << 40,), (1 << 20, 1 << 20)])
def test_a_payload_for_another_size_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(CodecError):
        PLANES.decode(memoryview(GOOD), 2 * math.prod(shape), "I16", shape)
