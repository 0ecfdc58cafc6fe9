from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from comfy_gpu_offload.errors import CodecError
from comfy_gpu_offload.io import codecs
from comfy_gpu_offload.io.buffers import Buffer, tensor_bytes
from comfy_gpu_offload.io.frame import Part, decode, encode


@given(st.binary(min_size=1, max_size=5000), st.integers(1, 200))
@settings(max_examples=100, deadline=None)
def test_zstd_gives_back_what_it_was_given(data: bytes, times: int) -> None:
    whole = memoryview(data * times)
    payload = codecs.ZSTD.encode(whole, 1)
    if payload is not None:
        assert len(payload) < len(whole)
        assert codecs.ZSTD.decode(memoryview(payload), len(whole), 1) == whole


def test_noise_is_not_worth_compressing() -> None:
    noise = torch.randint(0, 256, (1_000_000,), dtype=torch.uint8)
    assert codecs.ZSTD.encode(tensor_bytes(noise), 1) is None


def test_padded_conditioning_is() -> None:
    context = torch.zeros(1, 512, 4096, dtype=torch.bfloat16)
    context[:, :20] = torch.randn(1, 20, 4096).bfloat16()
    payload = codecs.ZSTD.encode(tensor_bytes(context), 2)
    assert payload is not None
    assert len(payload) < context.nbytes / 10


@pytest.mark.parametrize("claimed", [0, 1, 1000, (1 << 26) - 1, (1 << 26) + 1])
def test_a_payload_of_another_size_is_refused_and_never_decoded_beyond_what_was_claimed(claimed: int) -> None:
    bomb = memoryview(zstandard.ZstdCompressor().compress(bytes(1 << 26)))
    small = claimed < 10_000
    tracemalloc.start()
    with pytest.raises(CodecError):
        codecs.ZSTD.decode(bomb, claimed, 1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert not small or peak < 1 << 21


def test_truncated_and_altered_payloads_are_refused() -> None:
    data = bytes(range(256)) * 40
    payload = zstandard.ZstdCompressor().compress(data)
    for end in range(len(payload)):
        with pytest.raises(CodecError):
            codecs.ZSTD.decode(memoryview(payload[:end]), len(data), 1)
    for position in range(len(payload)):
        altered = bytearray(payload)
        altered[position] ^= 0xFF
        try:
            decoded = codecs.ZSTD.decode(memoryview(altered), len(data), 1)
        except CodecError:
            continue
        assert len(decoded) == len(data)  # what it says is the frame's checksum to judge


def test_raw_takes_exactly_its_size() -> None:
    with pytest.raises(CodecError):
        codecs.RAW.decode(memoryview(b"abc"), 4, 1)


@dataclass(frozen=True)
class Xor:
    """A codec from elsewhere, with a parameter."""

    name: ClassVar[str] = "xor"
    key: int = 1

    def encode(self, data: memoryview, item_bytes: int) -> Buffer | None:
        return bytes(byte ^ self.key for byte in data)

    def decode(self, payload: memoryview, size_bytes: int, item_bytes: int) -> memoryview:
        return memoryview(bytearray(byte ^ self.key for byte in payload))


@pytest.fixture
def _registered() -> Iterator[None]:
    codecs.register(Xor)
    yield
    del codecs._REGISTRY["xor"]


@pytest.mark.usefixtures("_registered")
def test_another_codec_joins_and_its_parameters_travel() -> None:
    assert "xor" in codecs.names()
    frame = encode({}, None, [Part("x", torch.arange(5))], Xor(key=77)).joined()
    (received,) = decode(frame).tensors
    assert received.tensor is not None
    assert torch.equal(received.tensor, torch.arange(5))
    with pytest.raises(ValueError, match="xor"):
        codecs.register(Xor)


def test_what_is_not_known_is_named() -> None:
    with pytest.raises(CodecError, match="middle-out"):
        codecs.named("middle-out")
    with pytest.raises(CodecError, match="zstd"):
        codecs.named("zstd", {"level": 99})
