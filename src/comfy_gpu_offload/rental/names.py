"""The names of all that is rented, by which it is found again without any record of it."""

from __future__ import annotations

import re
import secrets

PREFIX = "comfy-gpu-offload-"
# RunPod appends to the names of some endpoints, "-fb" for one.
_OURS = re.compile(rf"({PREFIX}[0-9a-f]{{8}})(?:$|[^0-9a-f])")


def new_name() -> str:
    """Return a name that nothing else has."""
    return PREFIX + secrets.token_hex(4)


def our_name(name: str) -> str | None:
    """Return the name that `new_name` gave, from the one that RunPod shows; None for what others made."""
    match = _OURS.match(name)
    return match[1] if match else None
