"""The codecs known here, by name. Others join through `register`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ...errors import CodecError
from .base import Chooser, Codec

_CODECS: dict[str, type[Codec]] = {}
_CHOOSERS: dict[str, Chooser] = {}
# Of each, the one without parameters given: it is named with every tensor.
_PLAIN: dict[str, Codec] = {}


def register(codec: type[Codec]) -> None:
    """Adds a codec class. Its name must be new, and its instances are made from their parameters.

    Raises:
        ValueError: the name is taken.
    """
    if codec.name in _CODECS or codec.name in _CHOOSERS:
        raise ValueError(f"a codec named {codec.name!r} is registered already")
    _CODECS[codec.name] = codec


def register_chooser(chooser: Chooser) -> None:
    """Adds a chooser. Its name must be new.

    Raises:
        ValueError: the name is taken.
    """
    if chooser.name in _CODECS or chooser.name in _CHOOSERS:
        raise ValueError(f"a codec named {chooser.name!r} is registered already")
    _CHOOSERS[chooser.name] = chooser


def names() -> tuple[str, ...]:
    """The names of all codecs known here, as the handshake states them."""
    return tuple(_CODECS)


def parameters(codec: Codec) -> dict[str, Any]:
    """The codec's parameters, as the frame's header states them: its dataclass fields."""
    return asdict(codec)  # type: ignore[call-overload, no-any-return]


def named(name: str, values: Mapping[str, Any] | None = None) -> Codec:
    """The codec of that name with those parameters.

    Raises:
        CodecError: no codec of that name is known, or the parameters are not its own.
    """
    kind = _CODECS.get(name)
    if kind is None:
        raise CodecError(f"the codec {name!r:.40} is not known here; known are {', '.join(_CODECS)}")
    if not values and name in _PLAIN:
        return _PLAIN[name]
    try:
        codec = kind(**(values or {}))
    except (TypeError, ValueError) as error:
        raise CodecError(f"{name}: these parameters are not its own") from error
    if not values:
        _PLAIN[name] = codec
    return codec


def wanted(name: str, values: Mapping[str, Any] | None = None) -> Codec | Chooser:
    """What to encode with, asked for by name: a codec, or a chooser, which has no parameters.

    Raises:
        CodecError: nothing of that name is known, or the parameters are not its own.
    """
    chooser = _CHOOSERS.get(name)
    return chooser if chooser is not None and not values else named(name, values)
