"""The lossless codec for numbers: byte planes, each stored in the way that suits it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from ..buffers import Buffer, allocate
from .copies import HEAD_BYTES, copies_in, fill, head, read_head
from .plane_blocks import PlaneReader, PlaneWriter, Words

BLOCK_BYTES: Final = 2**20
"""The bytes in one block: bounds what decoding allocates besides the tensor, and fits a core's cache."""

_SMALLEST_WORTHWHILE_BYTES = 512
# The unsigned words that the elements consist of, and whether they are IEEE floats, whose sign is rotated. Elements
# of all other dtypes are taken as single bytes, which form one plane.
_WORDS: dict[str, tuple[str, bool]] = {
    "F64": ("<u8", True),
    "F32": ("<u4", True),
    "C64": ("<u4", True),
    "F16": ("<u2", True),
    "BF16": ("<u2", True),
    "I64": ("<u8", False),
    "U64": ("<u8", False),
    "I32": ("<u4", False),
    "U32": ("<u4", False),
    "I16": ("<u2", False),
    "U16": ("<u2", False),
}


@dataclass(frozen=True)
class Planes:
    """Byte planes, each of them stored as it is, Huffman-coded, or compressed by zstd, as a sample suggests.

    Gaussian bf16 takes 10.6 bits per element and fp16 13.5, within 1.5 % of what any coding of single elements
    needs (benchmarks/codecs.py). Of equal entries of a batch, one is stored.
    """

    name: ClassVar[str] = "planes"
    lossless: ClassVar[bool] = True
    typical_share: ClassVar[float] = 0.67

    def encode(self, data: memoryview, dtype: str, shape: tuple[int, ...]) -> Buffer | None:
        if len(data) < _SMALLEST_WORTHWHILE_BYTES:
            return None
        count = copies_in(data, shape)
        words, rotate = words_of(data[: len(data) // count], dtype)
        writer = PlaneWriter()
        for block in _blocks(words):
            writer.add(block, rotate=rotate)
        if HEAD_BYTES + writer.size_bytes >= len(data):
            return None
        return b"".join([head(count), *writer.pieces])

    def decode(self, payload: memoryview, size_bytes: int, dtype: str, shape: tuple[int, ...]) -> memoryview:
        count, _ = read_head(payload, size_bytes, shape)
        out = allocate(size_bytes)
        words, rotate = words_of(out[: size_bytes // count], dtype)
        reader = PlaneReader(payload, HEAD_BYTES)
        for block in _blocks(words):
            reader.read_into(block, rotate=rotate)
        reader.finish()
        fill(out, count)
        return out


def words_of(data: memoryview, dtype: str) -> tuple[Words, bool]:
    """Return the words of a tensor, which share the memory of `data`, and whether their sign is rotated."""
    kind, rotate = _WORDS.get(dtype, ("<u1", False))
    return np.frombuffer(data, kind), rotate


def _blocks(words: Words) -> Iterator[Words]:
    step = BLOCK_BYTES // words.itemsize
    return (words[start : start + step] for start in range(0, words.size, step))
