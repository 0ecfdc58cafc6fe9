"""Codecs: how one tensor's bytes are stored in a frame.

A codec is a frozen value. Its name and parameters go into the frame's header, so a decoder needs nothing
else. Others join through `register`. The lossy ones are for those who ask for them by name; each states a bound
on its error. docs/codecs.md describes each payload.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ..buffers import Buffer
from .auto import Auto
from .base import Chooser, Codec
from .fp8 import Fp8
from .int4_block import Int4Block
from .int8_block import Int8Block
from .int8_channel import Int8Channel
from .planes import Planes
from .raw import Raw
from .registry import named, names, parameters, register, register_chooser, wanted
from .zstd import Zstd

__all__ = [
    "AUTO",
    "PLANES",
    "RAW",
    "ZSTD",
    "Auto",
    "Chooser",
    "Codec",
    "Encoded",
    "Fp8",
    "Int4Block",
    "Int8Block",
    "Int8Channel",
    "Planes",
    "Raw",
    "Zstd",
    "encode",
    "named",
    "names",
    "parameters",
    "register",
    "used_by",
    "wanted",
]

for _codec in (Raw, Zstd, Planes, Int8Block, Int8Channel, Fp8, Int4Block):
    register(_codec)

RAW = named(Raw.name)
ZSTD = Zstd()
PLANES = Planes()
AUTO = Auto()
register_chooser(AUTO)


class Encoded(NamedTuple):
    """A tensor's payload and the codec that made it."""

    codec: Codec
    payload: Buffer


def encode(
    codec: Codec | Chooser, data: memoryview, dtype: str, shape: tuple[int, ...], *, exact: bool = False
) -> Encoded:
    """The tensor by that codec, by the chooser's choice, or raw where neither makes it smaller.

    What a lossy codec does not take goes losslessly, and so does everything if it must be `exact`.
    """
    if codec is RAW:
        return Encoded(RAW, data)
    for candidate in _candidates(codec, data, dtype, shape, exact):
        payload = candidate.encode(data, dtype, shape)
        if payload is not None:
            return Encoded(candidate, payload)
    return Encoded(RAW, data)


def used_by(codec: Codec | Chooser) -> tuple[str, ...]:
    """The codecs that tensors may be stored by where this one is asked for: what a receiver has to know."""
    if isinstance(codec, Chooser):
        return codec.among
    others = (RAW.name,) if codec.lossless else AUTO.among
    return tuple(dict.fromkeys((codec.name, *others)))


def _candidates(
    codec: Codec | Chooser, data: memoryview, dtype: str, shape: tuple[int, ...], exact: bool
) -> Iterator[Codec]:
    if not isinstance(codec, Chooser):
        if codec.lossless or not exact:
            yield codec
        if codec.lossless:
            return
        codec = AUTO
    yield codec.choose(data, dtype, shape)
