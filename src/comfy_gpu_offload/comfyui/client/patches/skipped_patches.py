"""Reports of weight patches that do not fit their weights: their file and their layers."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...wire.patch_form import NETWORK
from ...wire.patch_writer import LeftOut
from .. import node_lines

logger = logging.getLogger(__name__)

# By the id of a patch's value: the value, so that its id is not reused, and its file or node, "" for unknown.
Origins = Mapping[int, tuple[Any, str]]
# By a weight's key: ComfyUI's patches on it.
Patches = Mapping[str, Sequence[Any]]

_UNKNOWN = "A LoRA"
_LOGGED_LAYERS = 50
# A node has room for a line or two.
_SHOWN_LAYERS = 2


def report(left_out: Sequence[LeftOut], patches: Patches, origins: Origins) -> None:
    """Report the layers that are left out, by file: in the log, and in short on the running node.

    Args:
        left_out: the patches that do not fit.
        patches: all patches among which they were found.
        origins: the files or nodes of the patches.
    """
    total = _counted(patches, origins)
    for name, keys in _by_origin(left_out, origins).items():
        count, of = len(keys), max(len(keys), total[name])
        text = f"{name or _UNKNOWN}: {count} of {of} layers do not fit this model and are left out, as in ComfyUI: "
        logger.warning("%s", text + node_lines.listed(keys, _LOGGED_LAYERS))
        node_lines.show(text + node_lines.listed(keys, _SHOWN_LAYERS))


def report_no_match(name: str) -> None:
    """Report that the model has none of a LoRA's keys.

    Args:
        name: the LoRA's file or node, or "".
    """
    text = f"{name or _UNKNOWN}: it has none of this model's keys, so it changes nothing."
    logger.warning("%s", text)
    node_lines.show(text)


def files_that_do_not_fit(left_out: Sequence[LeftOut], patches: Patches, origins: Origins) -> Iterator[str]:
    """Yield for each file of which nothing fits its name and what is wrong with its patches."""
    total = _counted(patches, origins)
    # Patches on a second model of a merge are only reported: they are not among this model's own.
    own_values = {id(patch[1]) for listed in patches.values() for patch in listed}
    own = [each for each in left_out if id(each.value) in own_values]
    for name, keys in _by_origin(own, origins).items():
        if len(keys) < total[name]:
            continue
        errors = Counter(str(each.error) for each in own if _origin(each.value, origins) == name)
        for error, count in errors.items():
            yield f"{name}: {error}, {on_layers(count)}" if name else f"{error}, {on_layers(count)}"


def on_layers(count: int) -> str:
    """Return ``on 1 layer``, ``on 2 layers`` and so on, as the end of a message."""
    return f"on {count} layer{'' if count == 1 else 's'}"


def _counted(patches: Patches, origins: Origins) -> Counter[str]:
    """Count patches by their file or node, without merges."""
    values = (patch[1] for listed in patches.values() for patch in listed if not isinstance(patch[1], list))
    return Counter(_origin(value, origins) for value in values)


def _by_origin(left_out: Sequence[LeftOut], origins: Origins) -> dict[str, list[str]]:
    """Return the keys of the patches, without the network's prefix, by their file or node."""
    found: dict[str, list[str]] = {}
    for each in left_out:
        found.setdefault(_origin(each.value, origins), []).append(each.key.removeprefix(NETWORK))
    return found


def _origin(value: Any, origins: Origins) -> str:
    return origins[id(value)][1] if id(value) in origins else ""
