"""What is said of weight patches that do not fit their weights: of which file they are, and of which layers."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...wire.patch_form import NETWORK
from ...wire.patch_writer import LeftOut
from .. import node_lines

logger = logging.getLogger(__name__)

# By the id of a patch's value that value, which keeps the id its own, and what the patch is from, "" for unknown.
Origins = Mapping[int, tuple[Any, str]]
# Of weights by key ComfyUI's patches.
Patches = Mapping[str, Sequence[Any]]

_UNKNOWN = "A LoRA"
_LOGGED_LAYERS = 50
# A node shows two lines of its width.
_SHOWN_LAYERS = 2


def tell(left: Sequence[LeftOut], patches: Patches, origins: Origins) -> None:
    """Say which layers are left out, of which file: in the log, and in short on the node that runs.

    Args:
        patches: among which they were found, to be counted.
    """
    total = _counted(patches, origins)
    for name, keys in _by_origin(left, origins).items():
        count, of = len(keys), max(len(keys), total[name])
        text = f"{name or _UNKNOWN}: {count} of {of} layers do not fit this model and are left out, as in ComfyUI: "
        logger.warning("%s", text + _listed(keys, _LOGGED_LAYERS))
        node_lines.show(text + _listed(keys, _SHOWN_LAYERS))


def tell_of_nothing(name: str) -> None:
    """Say that a node found none of a LoRA's keys in the model."""
    text = f"{name or _UNKNOWN}: none of its keys are this model's, so it changes nothing."
    logger.warning("%s", text)
    node_lines.show(text)


def wholly(left: Sequence[LeftOut], patches: Patches, origins: Origins) -> Iterator[str]:
    """Name each file of which nothing fits, and what is wrong with it."""
    total = _counted(patches, origins)
    # A second model's in a merge are said to be left out, and are not of this model.
    own = {id(patch[1]) for listed in patches.values() for patch in listed}
    mine = [each for each in left if id(each.value) in own]
    for name, keys in _by_origin(mine, origins).items():
        if len(keys) < total[name]:
            continue
        errors = Counter(str(each.error) for each in mine if _origin(each.value, origins) == name)
        for error, count in errors.items():
            yield f"{name}: {error}, {on_layers(count)}" if name else f"{error}, {on_layers(count)}"


def on_layers(count: int) -> str:
    """Return the end of a message about so many layers."""
    return f"on {count} layer{'' if count == 1 else 's'}"


def _counted(patches: Patches, origins: Origins) -> Counter[str]:
    """Count patches by what they are from; merges are from other models."""
    values = (patch[1] for listed in patches.values() for patch in listed if not isinstance(patch[1], list))
    return Counter(_origin(value, origins) for value in values)


def _by_origin(left: Sequence[LeftOut], origins: Origins) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for each in left:
        found.setdefault(_origin(each.value, origins), []).append(each.key.removeprefix(NETWORK))
    return found


def _origin(value: Any, origins: Origins) -> str:
    return origins[id(value)][1] if id(value) in origins else ""


def _listed(keys: Sequence[str], most: int) -> str:
    further = len(keys) - most
    return ", ".join(keys[:most]) + (f" and {further} more" if further > 0 else "")
