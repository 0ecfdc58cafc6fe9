"""The codecs by name: those that `codec_names` lists, and any that a program registers itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from importlib import import_module
from typing import Any

from ...codec_names import CODECS, REMOVED
from ...errors import CodecError
from .base import Chooser, Codec

_CODECS: dict[str, type[Codec]] = {}
_CHOOSERS: dict[str, Chooser] = {}
# The instance of each codec with its default parameters: every tensor of a frame names one.
_DEFAULT: dict[str, Codec] = {}


def register(codec: type[Codec]) -> None:
    """Add a codec class. Its instances are made from their parameters by keyword.

    Raises:
        ValueError: the name is taken, or was that of a codec of an earlier release.
    """
    if codec.name in _CODECS or codec.name in _CHOOSERS or codec.name in REMOVED:
        raise ValueError(f"a codec named {codec.name!r} is registered already, or was in an earlier release")
    _CODECS[codec.name] = codec


def register_listed() -> None:
    """Add the codecs that `codec_names` lists.

    Raises:
        ValueError: a class has another name than its line.
    """
    for name, place in CODECS.items():
        module, _, kind = place.partition(":")
        codec: type[Codec] = getattr(import_module(f".{module}", __package__), kind)
        if codec.name != name:
            raise ValueError(f"codec_names.py lists {place} as {name!r}, and its name is {codec.name!r}")
        register(codec)


def register_chooser(chooser: Chooser) -> None:
    """Add a chooser.

    Raises:
        ValueError: the name is taken.
    """
    if chooser.name in _CODECS or chooser.name in _CHOOSERS:
        raise ValueError(f"a codec named {chooser.name!r} is registered already")
    _CHOOSERS[chooser.name] = chooser


def names() -> tuple[str, ...]:
    """Return the names of all codecs, as the handshake states them."""
    return tuple(_CODECS)


def parameters(codec: Codec) -> dict[str, Any]:
    """Return the codec's parameters, as the frame's header states them: its dataclass fields."""
    return asdict(codec)  # type: ignore[call-overload, no-any-return]


def named(name: str, values: Mapping[str, Any] | None = None) -> Codec:
    """Return the codec of that name with these parameters.

    Raises:
        CodecError: there is no such codec, or it has no such parameters.
    """
    kind = _CODECS.get(name)
    if kind is None:
        raise CodecError(_unknown(name))
    if not values and name in _DEFAULT:
        return _DEFAULT[name]
    try:
        codec = kind(**(values or {}))
    except (TypeError, ValueError) as error:
        raise CodecError(f"{name}: these parameters are not its own") from error
    if not values:
        _DEFAULT[name] = codec
    return codec


def wanted(name: str, values: Mapping[str, Any] | None = None) -> Codec | Chooser:
    """Return what to encode with, by name: a codec, or a chooser, which has no parameters.

    Raises:
        CodecError: there is neither of that name, or it has no such parameters.
    """
    chooser = _CHOOSERS.get(name)
    return chooser if chooser is not None and not values else named(name, values)


def _unknown(name: str) -> str:
    if name in REMOVED:
        return (
            f"the codec {name!r} was removed from comfy-gpu-offload: set COMFY_GPU_OFFLOAD_COMPRESSION to auto or "
            f"{REMOVED[name]} where the tensor was encoded"
        )
    return f"the codec {name!r:.40} is not known here; known are {', '.join(_CODECS)}"
