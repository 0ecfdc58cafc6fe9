"""The origins of files that clients brought, added to a backend's list of models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ...backends.base import Listing, ModelFolder
from ...protocol.messages import ModelEntry
from .provenance import Origin, origins_in

_Key = tuple[str, str]


def with_origins(listing: Listing, folders: Mapping[str, ModelFolder]) -> Listing:
    """Return the list with hash and source of each file that a client brought.

    Args:
        folders: those of the backend, in which such files lie.
    """
    origins = {
        (folder, name): origin
        for folder, found in folders.items()
        for name, origin in origins_in(found.path).items()
    }
    if not origins:
        return listing
    return replace(
        listing,
        models=tuple(_with_origin(entry, origins) for entry in listing.models),
        modules=tuple(_with_origin(entry, origins) for entry in listing.modules),
    )


def _with_origin(entry: ModelEntry, origins: Mapping[_Key, Origin]) -> ModelEntry:
    # A name that two kinds of folder hold is listed with its folder in front.
    origin = origins.get((entry.folder, entry.name.removeprefix(f"{entry.folder}/")))
    if origin is None or origin.size_bytes != entry.size_bytes:
        return entry
    return entry.model_copy(update={"sha256": bytes.fromhex(origin.sha256), "source": origin.source})
