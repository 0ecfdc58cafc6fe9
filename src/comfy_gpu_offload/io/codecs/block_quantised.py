"""Lossy coding in blocks of consecutive elements, each with its own scale. docs/codecs.md specifies the layout."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ..buffers import Buffer, allocate, tensor_bytes
from . import quantised
from .copies import HEAD_BYTES, copies_in, fill, head, read_head
from .plane_blocks import Bytes, PlaneReader, PlaneWriter


@dataclass(frozen=True)
class BlockQuantised(ABC):
    """A lossy codec whose values are codes times the scale of their block.

    Attributes:
        block: the elements that share a scale; a power of two from 8 to 4096.
        levels: the largest value that a code stands for.
    """

    name: ClassVar[str]
    lossless: ClassVar[bool] = False
    typical_share: ClassVar[float]
    levels: ClassVar[float]

    block: int

    def __post_init__(self) -> None:
        if type(self.block) is not int or not 8 <= self.block <= 4096 or self.block.bit_count() != 1:
            quantised.refuse_block(self.block)

    def encode(self, data: memoryview, dtype: str, shape: tuple[int, ...]) -> Buffer | None:
        if not quantised.is_taken(dtype, shape):
            return None
        count = copies_in(data, shape)
        elements = quantised.flat(data[: len(data) // count], dtype)
        writer = PlaneWriter()
        for begin, end in quantised.segments(len(elements)):
            blocks = self._blocks(elements[begin:end])
            scales = quantised.scales_for(blocks.abs().amax(1), self.levels)
            if scales is None:
                return None
            codes = self._codes((blocks / quantised.divisors(scales)[:, None]).view(-1)[: end - begin])
            writer.add(scales, rotate=True)
            writer.add(codes, rotate=False)
        if HEAD_BYTES + writer.size_bytes >= len(data):
            return None
        return b"".join([head(count), *writer.pieces])

    def decode(self, payload: memoryview, size_bytes: int, dtype: str, shape: tuple[int, ...]) -> memoryview:
        quantised.check_taken(self.name, dtype, shape)
        count, _ = read_head(payload, size_bytes, shape)
        out = allocate(size_bytes)
        elements = quantised.flat(out[: size_bytes // count], dtype)
        reader = PlaneReader(payload, HEAD_BYTES)
        for begin, end in quantised.segments(len(elements)):
            scales = np.empty(math.ceil((end - begin) / self.block), np.uint16)
            reader.read_into(scales, rotate=True)
            quantised.check_scales(scales)
            codes = np.empty(self._code_bytes(end - begin), np.uint8)
            reader.read_into(codes, rotate=False)
            blocks = self._blocks(self._values(codes)[: end - begin])
            values = (blocks * quantised.factors(scales)[:, None]).view(-1)[: end - begin]
            quantised.restore(values, elements[begin:end])
        reader.finish()
        fill(out, count)
        return out

    def max_error(self, values: Tensor) -> Tensor:
        """Return the bound on the error of each of the finite `values`: float64, of their shape."""
        count = copies_in(tensor_bytes(values), tuple(values.shape))
        size = values.numel() // count
        blocks = self._blocks(values.reshape(-1)[:size])
        scales = quantised.scales_for(blocks.abs().amax(1), self.levels)
        if scales is None:
            raise ValueError("infinities and NaNs are stored losslessly, so they have no bound")
        each = self._error(blocks.double(), quantised.factors(scales).double()[:, None])
        step = each.reshape(-1)[:size].repeat(count).view(values.shape)
        return quantised.with_rounding(step, values)

    def _blocks(self, elements: Tensor) -> Tensor:
        """Return the elements as float32 `[blocks, block]`, the last block filled up with zeros."""
        short = -len(elements) % self.block
        values = elements.float()
        return (torch.nn.functional.pad(values, (0, short)) if short else values).view(-1, self.block)

    def _code_bytes(self, count: int) -> int:
        return count

    @abstractmethod
    def _codes(self, ratios: Tensor) -> Bytes:
        """Return the codes of float32 values within `levels` of zero, as bytes."""

    @abstractmethod
    def _values(self, codes: Bytes) -> Tensor:
        """Return the float32 values that the codes stand for.

        Raises:
            CodecError: a code stands for no value.
        """

    @abstractmethod
    def _error(self, values: Tensor, scales: Tensor) -> Tensor:
        """Return the bound on the distance of each value from its code times its scale, float64."""
