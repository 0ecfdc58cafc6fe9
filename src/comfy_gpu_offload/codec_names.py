"""The list of codecs: the name of each, and where its class is.

Settings accept the names, `io/codecs` loads the classes. The list stands outside both, because `config/` may not
import `io/`. CONTRIBUTING.md, "Add a codec", says what a new line needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

CODECS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "raw": "raw:Raw",
        "zstd": "zstd:Zstd",
        "planes": "planes:Planes",
        "picture": "picture:Picture",
        "int8-block": "int8_block:Int8Block",
        "int4-block": "int4_block:Int4Block",
    }
)
"""A codec's name in frames, in the handshake and in settings -> its module in `io/codecs` and its class there."""

REMOVED: Final[Mapping[str, str]] = MappingProxyType({"fp8": "int8-block", "int8-channel": "int8-block"})
"""A codec of earlier releases -> the one to use in its place. Its name is never used again."""

COMPRESSIONS: Final = ("auto", "none", *(name for name in CODECS if name != "raw"))
"""The values of the setting `compression`: the choice by measurement, no codec (`raw`), or one codec for all."""
