"""Pictures on the wire: 255ths as uint8 where that loses nothing, as with a picture that was read from a file."""

from __future__ import annotations

import torch

from ...io.buffers import on_host
from ...io.strides import moved, with_strides

_BYTE = 255.0
_CPU = torch.device("cpu")


def pack_picture(picture: torch.Tensor) -> torch.Tensor:
    """Return a picture of numbers from 0 to 1 on the CPU: as uint8 if `unpack_picture` gives the same bits."""
    picture = on_host(picture)
    if picture.dtype is not torch.float32 or not bool(picture.isfinite().all()):
        return picture
    codes = with_strides((picture * _BYTE).round().clamp(0, _BYTE).to(torch.uint8), picture.stride())
    return codes if _same_bits(unpack_picture(codes), picture) else picture


def unpack_picture(packed: torch.Tensor) -> torch.Tensor:
    """Return 255ths as numbers, strides kept. On the CPU: a GPU multiplies by the reciprocal."""
    if packed.dtype is not torch.uint8:
        return packed
    codes = moved(packed, _CPU)
    return with_strides(codes.float() / _BYTE, codes.stride())


def _same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    # A zero may be negative, and equals one that is not.
    return torch.equal(one.view(torch.int32), other.view(torch.int32))


def saved_values(picture: torch.Tensor) -> torch.Tensor:
    """Return a picture's values from 0 to 1 as the whole numbers that Save Image makes of them: it cuts off."""
    return (picture * _BYTE).clamp(0, 255).to(torch.uint8)


def from_saved_values(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a picture on `device` of which Save Image makes these values."""
    return values.to(device=device, dtype=torch.float32).div_(_BYTE)
