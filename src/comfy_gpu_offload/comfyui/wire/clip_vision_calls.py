"""Calls of a CLIP vision model on the wire: its methods, their arguments, and the form of what they return."""

from __future__ import annotations

from typing import Final

PREFIX: Final = "clip_vision:"
"""Before the name of a file, in a request for the module."""

ENCODE: Final = "encode_image"
"""ComfyUI's method as a whole; its one positional argument is a picture of `wire.picture_values`."""
CROP, WANTED = "crop", "wanted"
"""ComfyUI's argument; and the names of those fields of ComfyUI's output that are wanted, None for all but those of
`ON_DEMAND`."""

FIELDS, SIZES = "fields", "image_sizes"
"""The entries of a result: tensors (or None) by ComfyUI's names; and its sizes of pictures, in later releases."""

ALL_HIDDEN: Final = "all_hidden_states"
ON_DEMAND: Final = frozenset({ALL_HIDDEN})
"""Large fields that hardly anything reads: 90 MB a picture with SigLIP."""


def is_field(name: object) -> bool:
    """Return whether that may be the name of a field of ComfyUI's output."""
    return isinstance(name, str) and name.isidentifier() and not name.startswith("_") and len(name) <= 64
