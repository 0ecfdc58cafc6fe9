"""The removal of files that clients brought; an operator's own files stay."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping

from ...backends.base import ModelFolder
from . import provenance
from .placement import Place, place_of
from .refusals import RefusedFileError

logger = logging.getLogger(__name__)


def removable_file(folders: Mapping[str, ModelFolder], folder: str, name: str) -> Place:
    """Return the place of a file that clients may remove.

    Args:
        folders: those of the backend.

    Raises:
        RefusedFileError: there is no such file where clients' files lie, or no client brought it.
    """
    place = place_of(folders, folder, name)
    if not os.path.lexists(place.path):
        raise RefusedFileError(f"There is no {name} in {place.directory} at the worker, so it is not removed.")
    if provenance.origin_of(place.path) is None:
        raise RefusedFileError(
            f"{name} in {folder} was not brought by fetch or push, or was changed since: only the operator of the "
            "worker can remove it, on its machine."
        )
    return place


def remove(place: Place) -> None:
    """Remove the file and its record.

    Raises:
        RefusedFileError: the system does not remove it.
    """
    try:
        place.path.unlink(missing_ok=True)
    except OSError as error:
        raise RefusedFileError(
            f"{place.name} cannot be removed from {place.directory} at the worker "
            f"({error.strerror or type(error).__name__}): look at its permissions."
        ) from error
    provenance.forget(place.path)
    logger.info("%s was removed from %s, as a client asked", place.name, place.folder)
