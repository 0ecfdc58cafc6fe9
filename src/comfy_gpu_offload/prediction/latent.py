"""A latent as prediction sees it: equal parts along the first dimension, channels along the second.

The parts are the conditional and the unconditional half of a batch, above all: ComfyUI gives the model the same
latent once for each, and one of them is enough. Channels are told apart because those of an inpainting model's mask
and picture do not change during a run.
"""

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
"""The most equal parts that an input may consist of: as many as `io.codecs.copies` looks for."""

Mask = NDArray[np.bool_]
"""One bool per channel: `[C]`."""


class LatentBytes(NamedTuple):
    """A tensor's bytes on the CPU.

    Attributes:
        data: its elements in row-major order.
        dtype: its dtype's name in safetensors; empty if safetensors has none.
        shape: its shape in torch.
        strides: its strides; None if they are row-major.
    """

    data: memoryview
    dtype: str
    shape: tuple[int, ...]
    strides: Strides | None = None

    @classmethod
    def of(cls, tensor: torch.Tensor) -> LatentBytes:
        """Return the bytes of `tensor`, sharing its memory if it is contiguous and on the CPU."""
        return cls(tensor_bytes(tensor), NAMES.get(tensor.dtype, ""), tuple(tensor.shape), strides_of(tensor))

    def falls_into(self, parts: int) -> bool:
        """Return whether it can be predicted in that many parts."""
        known = self.dtype in arithmetic.WORDS and bool(self.shape) and bool(self.data)
        return known and 1 <= parts <= MOST_PARTS and self.shape[0] % parts == 0

    def parts(self, count: int) -> Iterator[Column]:
        """Yield `count` equal parts along the first dimension, in order, each flat."""
        size = len(self.data) // count
        return (arithmetic.column(self.data[i * size : (i + 1) * size], self.dtype) for i in range(count))


@dataclass(frozen=True)
class Layout:
    """The form that all inputs of one history share.

    Attributes:
        dtype: its name in safetensors.
        shape: of the whole input, e.g. `[B, C, H, W]`.
        parts: the number of equal parts along `B`.
    """

    dtype: str
    shape: tuple[int, ...]
    parts: int

    @property
    def _grid(self) -> tuple[int, int, int]:
        """Return the shape of one part as `[entries, channels, elements of a channel]`."""
        channels = self.shape[1] if len(self.shape) > 2 else 1
        return self.shape[0] // self.parts, channels, math.prod(self.shape[1:]) // channels

    def changed(self, part: Column, last: Column) -> Mask:
        """Return which channels of `part` differ from those of `last`, bit for bit."""
        differ = (part.words != last.words).reshape(self._grid)
        found: Mask = differ.any(axis=(0, 2))
        return found

    def picked(self, column: Column, changed: Mask) -> Column:
        """Return the changed channels of a part alone; the part itself if those are all."""
        if changed.all():
            return column
        return Column(column.words.reshape(self._grid)[:, changed].reshape(-1), column.dtype)

    def placed(self, column: Column, last: Column, changed: Mask) -> Column:
        """Return a part whose changed channels are those of `column`, and whose other channels those of `last`."""
        if changed.all():
            return column
        words = last.words.copy()
        words.reshape(self._grid)[:, changed] = column.words.reshape(self._grid[0], -1, self._grid[2])
        return Column(words, last.dtype)

    def size_of(self, changed: Mask) -> int:
        """Return the number of elements in the changed channels of a part."""
        entries, _, elements = self._grid
        return entries * int(np.count_nonzero(changed)) * elements

    def written(self, changed: Mask) -> bytes:
        """Return the mask as a message has it: one bit per channel, set if it did not change; empty if all did."""
        return b"" if changed.all() else np.packbits(~changed).tobytes()

    def read(self, kept: bytes) -> Mask:
        """Return the mask that `written` wrote as `kept`.

        Raises:
            CodecError: its length does not match the number of channels.
        """
        channels = self._grid[1]
        if kept and len(kept) != -(-channels // 8):
            raise CodecError(f"{len(kept)} bytes of a mask for {channels} channels")
        if not kept:
            return np.ones(channels, np.bool_)
        changed: Mask = np.unpackbits(np.frombuffer(kept, np.uint8), count=channels) == 0
        return changed


def layout_of(latent: LatentBytes, parts: int | None = None) -> Layout | None:
    """Return the layout of an input, or None if it cannot be predicted; `parts` are counted if not given."""
    if not latent.falls_into(1):
        return None
    count = copies_in(latent.data, latent.shape) if parts is None else parts
    return Layout(latent.dtype, latent.shape, count) if latent.falls_into(count) else None
