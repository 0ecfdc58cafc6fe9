"""Codecs: ways to store the bytes of one tensor in a frame.

A codec is a frozen value. The frame's header states its name and parameters, so a decoder needs nothing else.
`codec_names.py` lists all codecs. The lossy ones are used only by users who name them in the settings, and each
states a bound on its error (`max_error`). docs/codecs.md specifies the payloads.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ..buffers import Buffer
from .auto import Auto
from .base import Chooser, Codec
from .picture import Picture
from .planes import Planes
from .raw import Raw
from .registry import named, names, parameters, register, register_chooser, register_listed, wanted
from .zstd import Zstd

__all__ = [
    "AUTO",
    "PICTURE",
    "PLANES",
    "RAW",
    "ZSTD",
    "Chooser",
    "Codec",
    "EncodedTensor",
    "encode",
    "named",
    "names",
    "parameters",
    "register",
    "used_by",
    "wanted",
]

register_listed()

RAW = named(Raw.name)
ZSTD = named(Zstd.name)
PLANES = named(Planes.name)
PICTURE = named(Picture.name)
AUTO = Auto()
register_chooser(AUTO)


class EncodedTensor(NamedTuple):
    """A tensor's payload, and the codec that made it."""

    codec: Codec
    payload: Buffer


def encode(
    codec: Codec | Chooser, data: memoryview, dtype: str, shape: tuple[int, ...], *, exact: bool = False
) -> EncodedTensor:
    """Encode a tensor by `codec`, or by the choice of a chooser, or as it is where neither makes it smaller.

    A tensor that a lossy codec does not take is encoded as `AUTO` would, and so is every tensor that must stay
    `exact`. The other arguments are those of `Codec.encode`.
    """
    if codec is RAW:
        return EncodedTensor(RAW, data)
    for candidate in _candidates(codec, data, dtype, shape, exact):
        payload = candidate.encode(data, dtype, shape)
        if payload is not None:
            return EncodedTensor(candidate, payload)
    return EncodedTensor(RAW, data)


def used_by(codec: Codec | Chooser) -> tuple[str, ...]:
    """Return the names of the codecs that `encode` may use for this one: a receiver must know all of them."""
    if isinstance(codec, Chooser):
        return codec.among
    others = (RAW.name,) if codec.lossless else AUTO.among
    return tuple(dict.fromkeys((codec.name, *others)))


def _candidates(
    codec: Codec | Chooser, data: memoryview, dtype: str, shape: tuple[int, ...], exact: bool
) -> Iterator[Codec]:
    """Yield the codecs to try, in order."""
    if not isinstance(codec, Chooser):
        if codec.lossless or not exact:
            yield codec
        if codec.lossless:
            return
        codec = AUTO
    yield codec.choose(data, dtype, shape)
