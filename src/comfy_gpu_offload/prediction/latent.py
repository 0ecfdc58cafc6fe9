"""A tensor as prediction sees it: equal parts along the first dimension, channels along the second."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import CodecError
from ..io.buffers import tensor_bytes
from ..io.codecs.copies import copies_in
from ..io.dtypes import NAMES
from ..io.strides import Strides, strides_of
from . import arithmetic
from .arithmetic import Column

MOST_PARTS: Final = 8
"""Into how many equal parts an input may fall: as many as `codecs.Planes` looks for."""

Mask = NDArray[np.bool_]


class Tensor(NamedTuple):
    """A tensor's bytes in row-major order, its dtype as safetensors names it, its shape; strides if not plain."""

    data: memoryview
    dtype: str
    shape: tuple[int, ...]
    strides: Strides | None = None

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Tensor:
        """Torch's tensor, whose memory it shares where that is contiguous and on the CPU."""
        return cls(tensor_bytes(tensor), NAMES.get(tensor.dtype, ""), tuple(tensor.shape), strides_of(tensor))

    def falls_into(self, parts: int) -> bool:
        """Whether it can be predicted, in that many parts."""
        known = self.dtype in arithmetic.WORDS and bool(self.shape) and bool(self.data)
        return known and 1 <= parts <= MOST_PARTS and self.shape[0] % parts == 0

    def parts(self, count: int) -> Iterator[Column]:
        """So many parts along the first dimension, one after another."""
        size = len(self.data) // count
        return (arithmetic.column(self.data[i * size : (i + 1) * size], self.dtype) for i in range(count))


@dataclass(frozen=True)
class Layout:
    """What all inputs of one history have in common. `parts`: into how many equal ones they fall."""

    dtype: str
    shape: tuple[int, ...]
    parts: int

    @property
    def _grid(self) -> tuple[int, int, int]:
        """Of one part: its entries, the channels of each, the elements of those."""
        channels = self.shape[1] if len(self.shape) > 2 else 1
        return self.shape[0] // self.parts, channels, math.prod(self.shape[1:]) // channels

    def changed(self, part: Column, last: Column) -> Mask:
        """Which channels of `part` differ from those of `last`, bit for bit."""
        differ = (part.words != last.words).reshape(self._grid)
        found: Mask = differ.any(axis=(0, 2))
        return found

    def picked(self, column: Column, changed: Mask) -> Column:
        """Those channels of a part alone; a view where they are all."""
        if changed.all():
            return column
        return Column(column.words.reshape(self._grid)[:, changed].reshape(-1), column.dtype)

    def placed(self, column: Column, last: Column, changed: Mask) -> Column:
        """A part that has those channels of `column`, and the others of `last`."""
        if changed.all():
            return column
        words = last.words.copy()
        words.reshape(self._grid)[:, changed] = column.words.reshape(self._grid[0], -1, self._grid[2])
        return Column(words, last.dtype)

    def size_of(self, changed: Mask) -> int:
        """Elements of those channels of a part."""
        entries, _, elements = self._grid
        return entries * int(np.count_nonzero(changed)) * elements

    def written(self, changed: Mask) -> bytes:
        """The mask for a message: a bit for each channel that did not change; empty where all did."""
        return b"" if changed.all() else np.packbits(~changed).tobytes()

    def read(self, kept: bytes) -> Mask:
        """The mask that `written` gave.

        Raises:
            CodecError: it is not of these channels.
        """
        channels = self._grid[1]
        if kept and len(kept) != -(-channels // 8):
            raise CodecError(f"{len(kept)} bytes of a mask for {channels} channels")
        if not kept:
            return np.ones(channels, np.bool_)
        changed: Mask = np.unpackbits(np.frombuffer(kept, np.uint8), count=channels) == 0
        return changed


def layout_of(tensor: Tensor, parts: int | None = None) -> Layout | None:
    """The layout of an input, or None if it has none; its equal parts are counted where they are not given."""
    if not tensor.falls_into(1):
        return None
    count = copies_in(tensor.data, tensor.shape) if parts is None else parts
    return Layout(tensor.dtype, tensor.shape, count) if tensor.falls_into(count) else None
