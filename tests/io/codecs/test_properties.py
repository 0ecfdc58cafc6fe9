"""Every codec on every dtype, shape, layout and value: through a frame, and damaged on the way."""

from __future__ import annotations

import math
import tracemalloc
from typing import Any

import pytest
import torch
import xxhash
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.support.tensors import FLOATS, any_layout, bits, of_bytes, special_values

from comfy_gpu_offload.errors import CodecError, FrameError
from comfy_gpu_offload.io import codecs
from comfy_gpu_offload.io.buffers import tensor_bytes
from comfy_gpu_offload.io.codecs.quantised import is_taken
from comfy_gpu_offload.io.dtypes import DTYPES, NAMES
from comfy_gpu_offload.io.frame import PRELUDE, EncodedFrame, Part, decode, encode

ALL: list[codecs.Codec | codecs.Chooser] = [codecs.AUTO, *(codecs.named(name) for name in codecs.names())]
each_codec = pytest.mark.parametrize("codec", ALL, ids=lambda codec: codec.name)
# What naming a codec and its parameters adds to a frame's header.
NAMING = 48
# Besides the tensor: see test_every_codec.py.
CONSTANT = 4 * 2**20


def sent(codec: codecs.Codec | codecs.Chooser, tensor: torch.Tensor) -> EncodedFrame:
    return encode({}, None, [Part("x", tensor)], codec)


def received(frame: EncodedFrame) -> torch.Tensor:
    (part,) = decode(frame.joined()).tensors
    assert part.tensor is not None
    return part.tensor


def is_lossy_for(codec: Any, tensor: torch.Tensor) -> bool:
    """Return whether such a tensor may come back changed."""
    if codec.lossless or not is_taken(NAMES[tensor.dtype], tuple(tensor.shape)):
        return False
    return bool(torch.isfinite(tensor).all())


def assert_comes_back(codec: Any, tensor: torch.Tensor, back: torch.Tensor) -> None:
    assert (back.dtype, back.shape) == (tensor.dtype, tensor.shape)
    if is_lossy_for(codec, tensor):
        assert torch.isfinite(back).all()
        assert ((back.double() - tensor.double()).abs() <= codec.max_error(tensor.contiguous())).all()
    else:
        assert bits(back) == bits(tensor)


@each_codec
@given(tensor=any_layout())
@settings(max_examples=250, deadline=None)
def test_whatever_goes_comes_back_bit_for_bit_or_within_the_bound(
    codec: codecs.Codec | codecs.Chooser, tensor: torch.Tensor
) -> None:
    assert_comes_back(codec, tensor, received(sent(codec, tensor)))


@each_codec
@given(tensor=any_layout())
@settings(max_examples=150, deadline=None)
def test_a_frame_is_never_larger_than_the_raw_tensor_and_a_header(
    codec: codecs.Codec | codecs.Chooser, tensor: torch.Tensor
) -> None:
    used, payload = codecs.encode(codec, tensor_bytes(tensor), NAMES[tensor.dtype], tuple(tensor.shape))
    assert len(payload) < tensor.nbytes or (used == codecs.RAW and len(payload) == tensor.nbytes)
    assert sent(codec, tensor).size_bytes <= sent(codecs.RAW, tensor).size_bytes + NAMING


@each_codec
@pytest.mark.parametrize("name", sorted(DTYPES))
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 5), (1,), (7,), (1, 1, 33, 35), (2,) * 12], ids=str)
def test_every_dtype_comes_back_in_every_shape(
    codec: codecs.Codec | codecs.Chooser, name: str, shape: tuple[int, ...]
) -> None:
    count = math.prod(shape) * DTYPES[name].itemsize
    pattern = bytes(i % 2 if name == "BOOL" else i * 37 % 251 for i in range(count))
    tensor = of_bytes(pattern, DTYPES[name], shape)
    assert_comes_back(codec, tensor, received(sent(codec, tensor)))


@each_codec
@pytest.mark.parametrize("name", sorted(FLOATS))
def test_special_values_among_a_latents_come_back_bit_for_bit(
    codec: codecs.Codec | codecs.Chooser, name: str
) -> None:
    """NaNs with payloads, infinities, subnormals and negative zero, each alone among finite numbers."""
    latent = torch.randn(1, 4, 33, 32, generator=torch.Generator().manual_seed(0)).to(DTYPES[name])
    for value in special_values(DTYPES[name]):
        tensor = latent.clone()
        # By its bits: to assign a NaN may lose its payload.
        place = tensor.view(-1)[1234:1235].view(torch.uint8)
        place.copy_(value.reshape(1).view(torch.uint8))
        back = received(sent(codec, tensor))
        assert_comes_back(codec, tensor, back)
        if not torch.isfinite(value.float()):
            assert bits(back.view(-1)[1234:1235]) == bits(value.reshape(1))


# --- damage --------------------------------------------------------------------------------------------------

SHAPE = (1, 2, 16, 33)


def payload_of(codec: codecs.Codec, dtype: torch.dtype) -> bytes | None:
    """Return the payload of a small latent, or None if the codec does not make it smaller."""
    latent = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)).mul(0.05).to(dtype)
    payload = codec.encode(tensor_bytes(latent), NAMES[dtype], SHAPE)
    return None if payload is None else bytes(payload)


DAMAGED = [
    (codec, NAMES[dtype], payload)
    for codec in map(codecs.named, codecs.names())
    for dtype in (torch.bfloat16, torch.float32)
    if (payload := payload_of(codec, dtype)) is not None
]
each_payload = pytest.mark.parametrize(
    ("codec", "dtype", "payload"), DAMAGED, ids=[f"{codec.name}-{dtype}" for codec, dtype, _ in DAMAGED]
)


def take_or_refuse(codec: codecs.Codec, dtype: str, payload: bytes | bytearray) -> None:
    """Expect a CodecError or as many bytes as were asked for; the frame's checksum judges if they are right."""
    size = math.prod(SHAPE) * DTYPES[dtype].itemsize
    try:
        data = codec.decode(memoryview(payload), size, dtype, SHAPE)
    except CodecError:
        return
    assert len(data) == size


def test_every_codec_is_damaged_here() -> None:
    assert {codec.name for codec, _, _ in DAMAGED} == set(codecs.names())


@each_payload
def test_a_payload_cut_or_longer_at_any_byte_is_a_typed_error(
    codec: codecs.Codec, dtype: str, payload: bytes
) -> None:
    size = math.prod(SHAPE) * DTYPES[dtype].itemsize
    lengths = [payload[:end] for end in range(len(payload))] + [payload + b"\0" * more for more in (1, 2, 5, 1000)]
    for damaged in lengths:
        with pytest.raises(CodecError):
            codec.decode(memoryview(damaged), size, dtype, SHAPE)


@each_payload
@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
def test_a_payload_altered_at_any_byte_is_a_typed_error_or_the_right_size(
    codec: codecs.Codec, dtype: str, payload: bytes, flip: int
) -> None:
    for place in range(len(payload)):
        altered = bytearray(payload)
        altered[place] ^= flip
        take_or_refuse(codec, dtype, altered)


@each_payload
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_no_damage_makes_a_decoder_allocate_more_than_a_constant(
    codec: codecs.Codec, dtype: str, payload: bytes, data: st.DataObject
) -> None:
    altered = bytearray(payload)
    start = data.draw(st.integers(0, min(40, len(altered) - 8)))
    altered[start : start + 8] = data.draw(st.binary(min_size=8, max_size=8))
    tracemalloc.start()
    try:
        take_or_refuse(codec, dtype, altered)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < CONSTANT


@each_payload
@given(place=st.integers(0, 10_000), value=st.integers(1, 255))
@example(place=0, value=1)
@settings(max_examples=100, deadline=None)
def test_a_frame_whose_sender_vouches_for_a_damaged_payload_is_refused_or_gives_the_right_size(
    codec: codecs.Codec, dtype: str, payload: bytes, place: int, value: int
) -> None:
    """The checksum is right: what is wrong is for the codec to notice."""
    latent = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)).mul(0.05).to(DTYPES[dtype])
    frame = sent(codec, latent).joined()
    frame[len(frame) - len(payload) + place % len(payload)] ^= value
    magic, version, flags, header, section, _ = PRELUDE.unpack_from(frame)
    checksum = xxhash.xxh3_64_intdigest(frame[PRELUDE.size :])
    PRELUDE.pack_into(frame, 0, magic, version, flags, header, section, checksum)
    try:
        (part,) = decode(frame).tensors
    except FrameError as error:
        outcome: Any = error.malformation
    else:
        outcome = None if part.tensor is None else (part.tensor.dtype, tuple(part.tensor.shape))
    assert outcome in ("bad_payload", (DTYPES[dtype], SHAPE))
