from __future__ import annotations

import tracemalloc

import pytest
import torch
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from comfy_gpu_offload.errors import CodecError
from comfy_gpu_offload.io import codecs
from comfy_gpu_offload.io.buffers import tensor_bytes


@given(st.binary(min_size=1, max_size=5000), st.integers(1, 200))
@settings(max_examples=100, deadline=None)
def test_zstd_gives_back_what_it_was_given(data: bytes, times: int) -> None:
    whole = memoryview(data * times)
    payload = codecs.ZSTD.encode(whole, "U8", (len(whole),))
    if payload is not None:
        assert len(payload) < len(whole)
        assert codecs.ZSTD.decode(memoryview(payload), len(whole), "U8", (len(whole),)) == whole


def test_noise_is_not_worth_compressing() -> None:
    noise = torch.randint(0, 256, (1_000_000,), dtype=torch.uint8)
    assert codecs.ZSTD.encode(tensor_bytes(noise), "U8", (1_000_000,)) is None


def test_padded_conditioning_is() -> None:
    context = torch.zeros(1, 512, 4096, dtype=torch.bfloat16)
    context[:, :20] = torch.randn(1, 20, 4096).bfloat16()
    payload = codecs.ZSTD.encode(tensor_bytes(context), "BF16", tuple(context.shape))
    assert payload is not None
    assert len(payload) < context.nbytes / 10


@pytest.mark.parametrize("claimed", [0, 1, 1000, (1 << 26) - 1, (1 << 26) + 1])
def test_a_payload_of_another_size_is_refused_and_never_decoded_beyond_what_was_claimed(claimed: int) -> None:
    bomb = memoryview(zstandard.ZstdCompressor().compress(bytes(1 << 26)))
    small = claimed < 10_000
    tracemalloc.start()
    with pytest.raises(CodecError):
        codecs.ZSTD.decode(bomb, claimed, "U8", (claimed,))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert not small or peak < 1 << 21


def test_truncated_and_altered_payloads_are_refused() -> None:
    data = bytes(range(256)) * 40
    payload = zstandard.ZstdCompressor().compress(data)
    for end in range(len(payload)):
        with pytest.raises(CodecError):
            codecs.ZSTD.decode(memoryview(payload[:end]), len(data), "U8", (len(data),))
    for position in range(len(payload)):
        altered = bytearray(payload)
        altered[position] ^= 0xFF
        try:
            decoded = codecs.ZSTD.decode(memoryview(altered), len(data), "U8", (len(data),))
        except CodecError:
            continue
        assert len(decoded) == len(data)  # what it says is the frame's checksum to judge
