"""The properties of every codec, listed and to come: damage is noticed, and claims are not believed."""

from __future__ import annotations

import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.tensors import bits

from comfy_gpu_offload.errors import CodecError
from comfy_gpu_offload.io import codecs
from comfy_gpu_offload.io.buffers import tensor_bytes
from comfy_gpu_offload.io.dtypes import DTYPES, NAMES
from comfy_gpu_offload.io.frame import Part, decode, encode

CODING = [codecs.named(name) for name in codecs.names() if name != "raw"]
# Besides the tensor: the blocks or segments that are in work, and what zstd and NumPy need for themselves.
CONSTANT = 4 * 2**20


class Encoded(NamedTuple):
    codec: codecs.Codec
    dtype: str
    shape: tuple[int, ...]
    payload: bytes

    def decode(self, payload: bytes | bytearray, shape: tuple[int, ...] | None = None) -> memoryview:
        shape = self.shape if shape is None else shape
        size = torch.Size(shape).numel() * DTYPES[self.dtype].itemsize
        return self.codec.decode(memoryview(payload), size, self.dtype, shape)

    @property
    def size_bytes(self) -> int:
        return torch.Size(self.shape).numel() * DTYPES[self.dtype].itemsize


def encoded(codec: codecs.Codec, dtype: torch.dtype, *shape: int) -> Encoded:
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(0)).mul(0.05).to(dtype)
    payload = codec.encode(tensor_bytes(tensor), NAMES[dtype], shape)
    assert payload is not None
    return Encoded(codec, NAMES[dtype], shape, bytes(payload))


EXAMPLES = [
    encoded(codec, dtype, 1, 3, 30, 31)
    for codec in CODING
    for dtype in (torch.bfloat16, torch.float32)
    if (codec.name, dtype) != ("zstd", torch.float32)  # makes no float32 smaller
]
each_example = pytest.mark.parametrize("example", EXAMPLES, ids=lambda case: f"{case.codec.name}-{case.dtype}")


@each_example
def test_every_truncation_is_noticed(example: Encoded) -> None:
    example.decode(example.payload)
    for end in range(0, len(example.payload), 7):
        with pytest.raises(CodecError):
            example.decode(example.payload[:end])


@each_example
def test_what_follows_a_payload_is_noticed(example: Encoded) -> None:
    for surplus in (b"\0", b"x" * 100, example.payload):
        with pytest.raises(CodecError):
            example.decode(example.payload + surplus)


def take_or_refuse(example: Encoded, payload: bytes | bytearray, shape: tuple[int, ...] | None = None) -> None:
    """Expect a CodecError or as many bytes as were asked for; the frame's checksum judges if they are right."""
    try:
        data = example.decode(payload, shape)
    except CodecError:
        return
    assert (
        len(data) == torch.Size(example.shape if shape is None else shape).numel() * DTYPES[example.dtype].itemsize
    )


@each_example
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_altered_payloads_are_refused_or_give_just_what_was_asked_for(
    example: Encoded, data: st.DataObject
) -> None:
    altered = bytearray(example.payload)
    # Mostly in the heads, where it hurts.
    places = st.integers(0, 60) | st.integers(0, len(altered) - 1)
    for place, value in data.draw(st.lists(st.tuples(places, st.integers(1, 255)), min_size=1, max_size=4)):
        altered[place] ^= value
    take_or_refuse(example, altered)


@each_example
@given(shape=st.lists(st.integers(0, 40), max_size=6))
@settings(max_examples=50, deadline=None)
def test_payloads_for_another_shape_are_refused_or_give_just_what_was_asked_for(
    example: Encoded, shape: list[int]
) -> None:
    take_or_refuse(example, example.payload, tuple(shape))


@pytest.mark.parametrize("codec", CODING, ids=lambda codec: codec.name)
@given(payload=st.binary(max_size=200), version=st.booleans(), dtype=st.sampled_from(sorted(DTYPES)))
@settings(max_examples=200, deadline=None)
def test_random_bytes_are_refused(codec: codecs.Codec, payload: bytes, version: bool, dtype: str) -> None:
    size = 4096 * DTYPES[dtype].itemsize
    with pytest.raises(CodecError):
        codec.decode(memoryview(b"\1\1" * version + payload), size, dtype, (1, 64, 64))


@each_example
def test_decoding_allocates_the_tensor_and_a_constant(example: Encoded) -> None:
    large = encoded(example.codec, DTYPES[example.dtype], 1, 16, 512, 512)
    for payload in (large.payload, large.payload[:-1], large.payload + b"x"):
        tracemalloc.start()
        try:
            large.decode(payload)
        except CodecError:
            pass
        finally:
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        # torch's own memory, the tensor among it, is not traced: NumPy's and Python's are the constant.
        assert peak < CONSTANT


@pytest.mark.parametrize("codec", [codec for codec in CODING if codec.name != "zstd"], ids=lambda codec: codec.name)
@pytest.mark.parametrize("count", [2, 3, 8])
def test_of_equal_entries_of_a_batch_one_is_stored(codec: codecs.Codec, count: int) -> None:
    latent = torch.randn(2, 4, 64, 65, generator=torch.Generator().manual_seed(0)).bfloat16()
    batch = latent.repeat(count, 1, 1, 1)
    one, all_of_them = (
        codec.encode(tensor_bytes(tensor), "BF16", tuple(tensor.shape)) for tensor in (latent, batch)
    )
    assert one is not None
    assert all_of_them is not None
    assert len(all_of_them) == len(one)
    decoded = [
        codec.decode(memoryview(bytearray(payload)), tensor.nbytes, "BF16", tuple(tensor.shape))
        for payload, tensor in ((one, latent), (all_of_them, batch))
    ]
    assert bytes(decoded[1]) == bytes(decoded[0]) * count


@pytest.mark.parametrize("codec", [codec for codec in CODING if codec.name != "zstd"], ids=lambda codec: codec.name)
def test_entries_that_differ_in_their_last_element_are_both_stored(codec: codecs.Codec) -> None:
    batch = torch.randn(1, 4, 64, 65).bfloat16().repeat(2, 1, 1, 1)
    batch[1, 3, 63, 64] = 4
    frame = encode({}, None, [Part("x", batch)], codec)
    (received,) = decode(frame.joined()).tensors
    assert received.tensor is not None
    assert received.tensor[1, 3, 63, 64] > 3.5
    assert (received.tensor[0] - batch[0]).abs().max() < 0.5


def test_threads_encode_and_decode_at_the_same_time() -> None:
    latents = [torch.randn(1, 16, 128, 128, generator=torch.Generator().manual_seed(seed)) for seed in range(8)]
    started = threading.Barrier(len(latents))

    def there_and_back(latent: torch.Tensor) -> bool:
        started.wait(timeout=60)
        for _ in range(5):
            frame = encode({}, None, [Part("x", latent)], codecs.PLANES)
            (received,) = decode(frame.joined()).tensors
            if received.tensor is None or not torch.equal(received.tensor, latent):
                return False
        return True

    with ThreadPoolExecutor(len(latents)) as pool:
        assert all(pool.map(there_and_back, latents))


LAYOUTS = {
    "sliced": lambda tensor: tensor[:, 1:, ::2, 3:40:3],
    "transposed": lambda tensor: tensor.transpose(1, 3),
    "channels last": lambda tensor: tensor.contiguous(memory_format=torch.channels_last),
    "expanded": lambda tensor: tensor[:, :1].expand(-1, 5, -1, -1),
    "offset": lambda tensor: tensor.flatten()[1:4001],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("codec", CODING, ids=lambda codec: codec.name)
def test_layouts_that_are_not_contiguous_travel_as_their_elements(codec: codecs.Codec, layout: str) -> None:
    tensor = LAYOUTS[layout](torch.randn(1, 8, 64, 65).mul(0.05).bfloat16())
    frame = encode({}, None, [Part("x", tensor), Part("y", tensor.contiguous())], codec)
    x, y = (received.tensor for received in decode(frame.joined()).tensors)
    assert x is not None
    assert y is not None
    assert x.shape == tensor.shape
    assert bits(x) == bits(y)
    assert not codec.lossless or torch.equal(x, tensor)
