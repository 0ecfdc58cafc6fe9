"""Pictures on the wire: the same bits and strides, in a quarter of the bytes where that is exact."""

from __future__ import annotations

import math

import pytest
import torch

from comfy_gpu_offload.comfyui.wire.picture_values import pack_picture, unpack_picture


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("exact", [True, False])
def test_a_picture_arrives_as_it_was(channels_last: bool, exact: bool) -> None:
    picture = torch.arange(256).repeat(3).reshape(2, 8, 16, 3).float() / 255.0
    picture = picture if exact else picture * 0.999
    picture = picture.movedim(-1, 1) if channels_last else picture
    packed = pack_picture(picture)
    assert packed.dtype is (torch.uint8 if exact else torch.float32)
    arrived = unpack_picture(packed)
    assert torch.equal(arrived.view(torch.int32), picture.view(torch.int32))
    assert arrived.stride() == picture.stride()


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.5, -0.0, 2.0])
def test_numbers_that_are_no_255ths_travel_as_they_are(value: float) -> None:
    assert pack_picture(torch.full((1, 3, 2, 2), value)).dtype is torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_travel_as_they_are(dtype: torch.dtype) -> None:
    assert pack_picture(torch.ones(1, 2, 2, 3, dtype=dtype)).dtype is dtype
