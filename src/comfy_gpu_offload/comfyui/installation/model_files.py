"""Files of models in ComfyUI's folders, listed and found by name; errors of their loading that name the file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import comfy.model_management
import folder_paths

from ...backends.base import (
    BackendError,
    ModelFileError,
    ModelFolder,
    ModelNotFoundError,
    is_out_of_memory,
    no_room_for,
)
from ...backends.model_folders import Skips, files_in


@dataclass(frozen=True)
class ModelFile:
    """One file: `name` as shown and asked for, `folder` the kind it lies in, its size when it was found."""

    name: str
    folder: str
    path: Path
    size_bytes: int


@dataclass(frozen=True)
class FileKind:
    """A kind of model file.

    Attributes:
        noun: what messages call one.
        folders: ComfyUI's names of the folders that such files lie in.
        aliases: further names of folders below a user's models folder, and which of `folders` each belongs to.
    """

    noun: str
    folders: tuple[str, ...]
    aliases: Mapping[str, str] = field(default_factory=dict)

    def paths(self) -> tuple[str, ...]:
        """Return the folders on this machine that such files are looked for in."""
        return tuple(path for folder in self.folders for path in folder_paths.get_folder_paths(folder))

    def folder_for_new(self, folder: str) -> ModelFolder:
        """Return where a new file goes that belongs into ComfyUI's folder of that name, one of `folders`.

        That is the first of its paths, or the one beside it that has the folder's own name: by default, ComfyUI
        looks into `unet` before `diffusion_models`, and into `clip` after `text_encoders`.
        """
        paths = [Path(path) for path in folder_paths.get_folder_paths(folder)]
        named = paths[0].parent / folder
        return ModelFolder(named if named in paths else paths[0], _suffixes_of(folder))

    def list_files(self, skips: Skips | None = None) -> list[ModelFile]:
        """Return every file of this kind that can be read.

        A name is the path below its folder, with forward slashes; one that two kinds of folder hold is shown with
        its folder in front. `skips` is told of what is passed over.
        """
        files = [file for folder in self.folders for file in _files_of(folder, Skips() if skips is None else skips)]
        counts = Counter(file.name for file in files)
        return [
            file if counts[file.name] == 1 else replace(file, name=f"{file.folder}/{file.name}") for file in files
        ]

    def find_file(self, name: str) -> ModelFile:
        """Return the file of that name; with its folder in front it is found either way.

        Raises:
            ModelNotFoundError: there is none; names the folders looked in.
        """
        wanted = name.replace("\\", "/")
        files = self.list_files()
        for file in files:
            if wanted in {file.name, f"{file.folder}/{file.name}"}:
                return file
        if any(file.name == f"{file.folder}/{wanted}" for file in files):
            choices = " or ".join(f"{folder}/{wanted}" for folder in self.folders)
            raise ModelNotFoundError(f"There are two {self.noun}s {wanted!r}: ask for {choices}.")
        raise ModelNotFoundError(
            f"There is no {self.noun} {wanted!r:.260}. Looked in {', '.join(self.paths())}. Put it there, or "
            "choose another in the node, whose button asks for the list again."
        )


def _files_of(folder: str, skips: Skips) -> list[ModelFile]:
    """Return the readable files in ComfyUI's folders of one name; the first folder that has a name wins.

    ComfyUI's own listing is not used, since a folder that two links lead back into halts it.
    """
    suffixes = _suffixes_of(folder)
    found: dict[str, ModelFile] = {}
    for root in folder_paths.get_folder_paths(folder):
        for file in files_in(Path(root), lambda name: not suffixes or Path(name).suffix.lower() in suffixes, skips):
            found.setdefault(file.name, ModelFile(file.name, folder, file.path, file.size_bytes))
    return [found[name] for name in sorted(found)]


def _suffixes_of(folder: str) -> frozenset[str]:
    return frozenset(folder_paths.folder_names_and_paths[folder][1])


@contextmanager
def naming_the_file(file: ModelFile, kind: str = "") -> Iterator[None]:
    """Make errors that end loading name the file; `kind` is what it is loaded as, " as a …".

    Raises:
        ModelFileError: anything went wrong: a damaged file that is no safetensors fails in many ways.
        OutOfMemoryError: it does not fit.
    """
    try:
        yield
    except (BackendError, comfy.model_management.InterruptProcessingException):
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise no_room_for(file.name) from error
        what = f"{type(error).__name__}: {str(error)[:500]}"
        raise ModelFileError(f"ComfyUI cannot load {file.path}{kind}. {what}") from error
