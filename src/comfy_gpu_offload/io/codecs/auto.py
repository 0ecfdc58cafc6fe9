"""The choice among the lossless codecs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .base import Codec
from .planes import Planes
from .raw import Raw
from .sample import sample_of
from .zstd import Zstd

_PIECE_BYTES = 8 * 1024
# Below this gain the time spent exceeds what a fast link saves.
_WORTHWHILE = 0.95


@dataclass(frozen=True)
class Auto:
    """Whichever of raw, zstd and planes makes a sample of the tensor smallest."""

    name: ClassVar[str] = "auto"

    def choose(self, data: memoryview, dtype: str, shape: tuple[int, ...]) -> Codec:
        sample = memoryview(sample_of(data, _PIECE_BYTES))
        best: Codec = Raw()
        fewest = _WORTHWHILE * len(sample)
        for codec in (Planes(), Zstd()):
            payload = codec.encode(sample, dtype, (len(sample),))
            if payload is not None and len(payload) < fewest:
                best, fewest = codec, len(payload)
        return best
