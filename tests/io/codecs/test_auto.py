from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from tests.support.tensors import bits, tensors

from comfy_gpu_offload.io import codecs
from comfy_gpu_offload.io.buffers import tensor_bytes
from comfy_gpu_offload.io.dtypes import NAMES
from comfy_gpu_offload.io.frame import Part, decode, encode


def chosen(tensor: torch.Tensor) -> codecs.Codec:
    return codecs.AUTO.choose(tensor_bytes(tensor), NAMES[tensor.dtype], tuple(tensor.shape))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_latents_go_by_planes(dtype: torch.dtype) -> None:
    assert chosen(torch.randn(1, 16, 128, 128).to(dtype)) == codecs.PLANES


def test_elements_that_repeat_as_a_whole_go_by_zstd() -> None:
    words = torch.randint(0, 2**62, (16,))
    assert chosen(words[torch.randint(0, 16, (10_000,))]) == codecs.ZSTD


def test_copies_go_by_planes() -> None:
    noise = torch.randint(0, 256, (1, 100_000), dtype=torch.uint8)
    assert chosen(noise.repeat(2, 1)) == codecs.PLANES


@pytest.mark.parametrize(
    "tensor", [torch.randint(0, 256, (100_000,), dtype=torch.uint8), torch.ones(2), torch.zeros(0)]
)
def test_noise_and_what_is_tiny_go_raw(tensor: torch.Tensor) -> None:
    assert chosen(tensor) == codecs.RAW


@given(tensors())
@settings(max_examples=100, deadline=None)
def test_the_frame_names_the_codec_that_was_chosen(case: tuple[str, torch.Tensor]) -> None:
    _, tensor = case
    frame = encode({}, None, [Part("x", tensor)], codecs.AUTO)
    (received,) = decode(frame.joined()).tensors
    assert received.tensor is not None
    assert bits(received.tensor) == bits(tensor)
