"""A look at whether a file that is asked for is there already."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable

from . import provenance
from .disk_space import disk_errors
from .incoming_file import refuse_taken
from .placement import Place
from .provenance import Origin, origin_of

_BLOCK = 1024**2


def same_file(
    place: Place, sha256: str | None, source: str, check: Callable[[], None] = lambda: None
) -> Origin | None:
    """Return the origin of the file at `place` if it is the one that is meant; None if there is no file.

    A file of unknown origin is read once, and its origin recorded.

    Args:
        sha256: of the file that is meant, if that is known; else it has to come from the same source.
        check: called now and then while the file is read; what it raises ends that.

    Raises:
        RefusedFileError: another file is there.
    """
    if not os.path.lexists(place.path):
        return None
    known = origin_of(place.path)
    if known is not None and (known.sha256 == sha256 if sha256 is not None else known.source == source):
        return known
    if known is None and sha256 is not None and place.path.is_file() and _hash_of(place, check) == sha256:
        origin = Origin(sha256, place.path.stat().st_size, source)
        provenance.record(place.path, origin)
        return origin
    refuse_taken(place)
    return None


def _hash_of(place: Place, check: Callable[[], None]) -> str:
    digest = hashlib.sha256()
    with disk_errors(place.directory), place.path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            check()
    return digest.hexdigest()
