"""Tensors arrive with the strides they had, whatever they are and however they are coded."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.tensors import bits, of_bytes

from comfy_gpu_offload.io import codecs
from comfy_gpu_offload.io.digests import digest
from comfy_gpu_offload.io.dtypes import DTYPES
from comfy_gpu_offload.io.frame import Part, decode, encode
from comfy_gpu_offload.io.strides import (
    are_strides,
    copied,
    memory_bytes,
    moved,
    plain_strides,
    span,
    strides_of,
    with_strides,
)

CODECS = [codecs.RAW, codecs.ZSTD, codecs.PLANES, codecs.AUTO]
LOSSY = [codecs.named("int8-block"), codecs.named("int4-block")]


@st.composite
def views(draw: st.DrawFn) -> torch.Tensor:
    """Draw a view of some memory: dimensions in any order, gaps, repeats, and any stride where a size is 1."""
    name = draw(st.sampled_from(sorted(set(DTYPES) - {"F4"})))
    shape = draw(st.lists(st.integers(1, 5), min_size=1, max_size=5))
    strides, step = [0] * len(shape), 1
    for at in draw(st.permutations(range(len(shape)))):
        kind = draw(st.sampled_from(["dense", "dense", "gap", "repeat", "overlap"]))
        if shape[at] == 1:
            strides[at] = draw(st.integers(0, 1000))
            continue
        strides[at] = {"dense": step, "gap": step + 3, "repeat": 0, "overlap": max(1, step // 2)}[kind]
        step = max(step, strides[at] * shape[at])
    noise = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    size = span(shape, strides) * DTYPES[name].itemsize
    memory = torch.randint(0, 2 if name == "BOOL" else 256, (size,), generator=noise, dtype=torch.uint8)
    return of_bytes(memory.numpy().tobytes(), DTYPES[name]).as_strided(shape, strides)


@given(views(), st.sampled_from(CODECS))
@settings(max_examples=400, deadline=None)
def test_any_view_arrives_with_its_strides_and_its_bits(tensor: torch.Tensor, codec: codecs.Codec) -> None:
    (received,) = decode(encode({}, None, [Part("x", tensor)], codec).joined()).tensors
    assert received.tensor is not None
    assert received.tensor.stride() == tensor.stride()
    assert received.tensor.shape == tensor.shape
    assert bits(received.tensor) == bits(tensor)
    assert digest(received.tensor) == digest(tensor)


@pytest.mark.parametrize("codec", LOSSY, ids=lambda codec: codec.name)
@pytest.mark.parametrize("order", [(0, 2, 3, 1), (3, 2, 1, 0), (1, 0, 2, 3)], ids=str)
def test_a_lossy_codec_gives_the_same_numbers_in_any_order(codec: codecs.Codec, order: tuple[int, ...]) -> None:
    plain = torch.randn(2, 4, 16, 24, generator=torch.Generator().manual_seed(1))
    ordered = plain.permute(order).contiguous().permute([order.index(at) for at in range(4)])
    parts = [Part("plain", plain), Part("ordered", ordered)]
    first, second = (each.tensor for each in decode(encode({}, None, parts, codec).joined()).tensors)
    assert first is not None
    assert second is not None
    assert second.stride() == ordered.stride() != first.stride()
    assert torch.equal(first, second)
    assert not torch.equal(first, plain)


@given(views())
@settings(max_examples=200, deadline=None)
def test_copies_and_moves_keep_strides_and_own_their_memory(tensor: torch.Tensor) -> None:
    copy = copied(tensor)
    assert copy.stride() == tensor.stride()
    assert bits(copy) == bits(tensor)
    assert copy.untyped_storage().nbytes() == memory_bytes(tensor)
    assert copy.untyped_storage().data_ptr() != tensor.untyped_storage().data_ptr()
    assert moved(tensor, torch.device("cpu")) is tensor
    assert moved(tensor, torch.device("meta")).stride() == tensor.stride()


@pytest.mark.parametrize("shape", [(), (1,), (3, 0, 2), (1, 4, 8, 8), (2, 1, 1, 5)], ids=str)
def test_plain_strides_are_torchs_own_and_are_not_told(shape: tuple[int, ...]) -> None:
    tensor = torch.zeros(shape)
    assert plain_strides(shape) == tensor.stride()
    assert strides_of(tensor) is None
    assert with_strides(tensor, None) is tensor


def test_convolutions_of_a_size_of_one_see_the_memory_format_that_was_sent() -> None:
    plain = torch.randn(1, 1, 8, 8)
    for tensor in (plain, plain.as_strided((1, 1, 8, 8), (64, 1, 8, 1))):
        (received,) = decode(encode({}, None, [Part("x", tensor)]).joined()).tensors
        assert received.tensor is not None
        weight = torch.ones(4, 1, 3, 3)
        mine, theirs = (torch.nn.functional.conv2d(x, weight).stride() for x in (received.tensor, tensor))
        assert mine == theirs


def test_a_view_of_little_in_much_memory_closes_its_gaps_and_keeps_its_order() -> None:
    memory = torch.randn(4000, 3, 2000)
    view = memory[::1000, :, ::1000].permute(2, 0, 1)
    assert not are_strides(view.shape, view.stride(), view.itemsize)
    (received,) = decode(encode({}, None, [Part("x", view)]).joined()).tensors
    assert received.tensor is not None
    assert torch.equal(received.tensor, view)
    assert received.tensor.stride() == (1, 6, 2)
    assert digest(received.tensor) == digest(view)


@pytest.mark.parametrize(
    ("shape", "strides"),
    [((2, 3), (3,)), ((2,), (-1,)), ((2,), (2**62,)), ((2,), (2**40,)), ((2, 3), (2**21, 1))],
    ids=str,
)
def test_strides_that_ask_for_much_memory_or_are_none_are_refused(
    shape: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    assert not are_strides(shape, strides, 4)
