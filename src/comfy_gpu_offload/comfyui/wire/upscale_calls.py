"""Calls of an upscale model on the wire: ComfyUI's whole node, or one tile as packs call it; its description."""

from __future__ import annotations

from typing import Any, Final

from ...protocol.messages import FORWARD

PREFIX: Final = "upscale_model:"
"""Before the name of a file, in a request for the module."""

UPSCALE: Final = "upscale"
"""ComfyUI's node as a whole; its one positional argument is a picture of `wire.picture_values`."""
DTYPE, EIGHT_BIT = "dtype", "eight_bit"
"""The dtype of ComfyUI's pictures at the client, and whether 8-bit values are returned."""

TILE: Final = FORWARD
"""One tile, padded and cut as spandrel does."""
NETWORK: Final = "network"
"""The network itself."""

TEXTS: Final = ("architecture", "purpose", "tiling")
FLAGS: Final = ("supports_half", "supports_bfloat16")
NUMBERS: Final = ("scale", "input_channels", "output_channels")
"""Facts of a description, beside `tags`, `minimum`, `multiple_of` and `square`."""

_MOST_TAGS = 64
_MOST_CHARACTERS = 256


def are_facts(facts: Any) -> bool:
    """Return whether a worker's description of an upscale model is of the expected form."""
    names = {*TEXTS, *FLAGS, *NUMBERS, "tags", "minimum", "multiple_of", "square"}
    return (
        isinstance(facts, dict)
        and facts.keys() == names
        and all(map(_is_text, (facts[name] for name in TEXTS)))
        and all(isinstance(facts[name], bool) for name in (*FLAGS, "square"))
        and all(_is_number(facts[name], 1) for name in (*NUMBERS, "multiple_of"))
        and _is_number(facts["minimum"], 0)
        and isinstance(facts["tags"], list)
        and len(facts["tags"]) <= _MOST_TAGS
        and all(map(_is_text, facts["tags"]))
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= _MOST_CHARACTERS


def _is_number(value: Any, least: int) -> bool:
    return type(value) is int and least <= value <= 2**16
