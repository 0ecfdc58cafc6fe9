"""The choice among the lossless codecs, made for each tensor from a sample of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..dtypes import DTYPES
from .base import Chooser, Codec
from .copies import copies_in
from .planes import Planes
from .raw import Raw
from .sample import sample_of
from .zstd import Zstd

_PIECE_BYTES = 4 * 1024
# A smaller gain costs more time than a fast link saves.
_WORTHWHILE = 0.95


@dataclass(frozen=True)
class Auto(Chooser):
    """The one of raw, zstd and planes that makes a sample of the tensor smallest."""

    name: ClassVar[str] = "auto"
    typical_share: ClassVar[float] = 0.67
    among: ClassVar[tuple[str, ...]] = (Raw.name, Zstd.name, Planes.name)

    def choose(self, data: memoryview, dtype: str, shape: tuple[int, ...]) -> Codec:
        if copies_in(data, shape) > 1:
            return Planes()
        sample = memoryview(sample_of(data, _PIECE_BYTES))
        size = (len(sample) // DTYPES[dtype].itemsize,)
        best: Codec = Raw()
        fewest = _WORTHWHILE * len(sample)
        for codec in (Planes(), Zstd()):
            payload = codec.encode(sample, dtype, size)
            if payload is not None and len(payload) < fewest:
                best, fewest = codec, len(payload)
        return best
