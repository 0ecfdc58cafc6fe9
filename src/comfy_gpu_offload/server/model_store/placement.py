"""The place of a model file that a client brings: a folder of the worker's list, and a name that is safe there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ...backends.base import ModelFolder
from ...backends.model_folders import MAX_NAME
from .file_formats import SUFFIXES
from .refusals import RefusedFileError

# With the suffix of its part, a name has to stay within the 255 bytes that file systems allow.
_MAX_NAME_BYTES = 220
_SEPARATORS = frozenset("/\\")
# Windows does not allow these; there, a colon would lead to another stream of a file.
_FORBIDDEN = frozenset('<>:"|?*')
_DEVICES = frozenset(
    {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(10))}
)


@dataclass(frozen=True)
class Place:
    """The place of a file in a folder of models.

    Attributes:
        folder: ComfyUI's name of the folder.
        name: of the file, without any folder.
        directory: the folder itself.
    """

    folder: str
    name: str
    directory: Path

    @property
    def path(self) -> Path:
        """Return the file's path."""
        return self.directory / self.name

    @property
    def suffix(self) -> str:
        """Return the suffix of its name, in lower case."""
        return Path(self.name).suffix.lower()


def place_of(folders: Mapping[str, ModelFolder], folder: str, name: str) -> Place:
    """Return where a file of that name belongs; checks both, and makes nothing.

    Args:
        folders: those of the worker's backend.

    Raises:
        RefusedFileError: the worker has no such folder, or does not take a file of that name there.
    """
    check_name(name)
    found = folders.get(folder)
    if found is None:
        known = f"it has {', '.join(sorted(folders))}" if folders else "its backend takes no single files"
        raise RefusedFileError(f"This worker has no folder {folder!r:.80} for models: {known}.")
    suffix = Path(name).suffix.lower()
    if suffix not in found.suffixes:
        listed = ", ".join(sorted(found.suffixes & SUFFIXES))
        raise RefusedFileError(
            f"This worker cannot load {suffix} files from {folder}, only {listed}: take the model in that form."
        )
    return Place(folder, name, found.path)


def check_name(name: str) -> None:
    """Refuse a file's name that leads elsewhere, that another system would read as something else, or no model's.

    Raises:
        RefusedFileError: says what is wrong with it.
    """
    wrong = _wrong_name(name)
    if wrong is not None:
        raise RefusedFileError(f"{name!r:.260} cannot be a model's name on the worker: {wrong}.")


def _wrong_name(name: str) -> str | None:
    rules = (
        (
            not name or len(name) > MAX_NAME or len(name.encode("utf-8", "replace")) > _MAX_NAME_BYTES,
            f"it has to have 1 to {_MAX_NAME_BYTES} bytes",
        ),
        (bool(_SEPARATORS & set(name)), "it may not hold a folder; that is named apart from it"),
        (name != name.strip(". "), "it may not begin or end with a dot or a space"),
        (
            bool(_FORBIDDEN & set(name)) or not name.isprintable(),
            f"it may not hold control characters or {' '.join(sorted(_FORBIDDEN))}",
        ),
        (name.split(".", maxsplit=1)[0].strip().lower() in _DEVICES, "Windows takes it for a device"),
        (
            Path(name).suffix.lower() not in SUFFIXES,
            f"it has to end with {', '.join(sorted(SUFFIXES))}, since other kinds of files could run code",
        ),
    )
    return next((reason for is_wrong, reason in rules if is_wrong), None)
