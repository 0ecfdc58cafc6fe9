"""8-bit floats with a scale for each block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...errors import CodecError
from .block_quantised import BlockQuantised
from .plane_blocks import Bytes


@dataclass(frozen=True)
class Fp8(BlockQuantised):
    """Lossy: each value becomes the nearest e4m3 float (OCP 8-bit floating point) times the scale of its block.

    A value comes back within 1/16 of itself, or within scale / 1024 if that is more, where scale is the block's
    largest magnitude / 448, rounded up to bfloat16; to that comes the rounding to the tensor's dtype. Gaussian
    latents: 2.6 % in relative L2, four times what int8-block loses at the same size. It is for values of very
    different magnitude side by side.
    """

    name: ClassVar[str] = "fp8"
    levels: ClassVar[float] = 448
    typical_share: ClassVar[float] = 0.5

    block: int = 64

    def _codes(self, ratios: Tensor) -> Bytes:
        return ratios.to(torch.float8_e4m3fn).view(torch.uint8).numpy()

    def _values(self, codes: Bytes) -> Tensor:
        if ((codes & 0x7F) == 0x7F).any():
            raise CodecError("a code is no number")
        return torch.from_numpy(codes).view(torch.float8_e4m3fn).float()

    def _error(self, values: Tensor, scales: Tensor) -> Tensor:
        # Three bits of mantissa; subnormals are 2^-9 apart. The last factor is the quotient's rounding in float32.
        return torch.maximum(values.abs() / 16, scales / 1024) * (1 + 2**-19)
