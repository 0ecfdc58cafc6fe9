"""Files of VAEs, as ComfyUI's Load VAE lists them, and their loading by its own code, at the worker or locally."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

import comfy.sd
import torch

from ...backends.base import ModelFileError, ModelNotFoundError
from ...backends.model_folders import Skips
from ...backends.weight_files import check_weight_file
from .folder_names import APPROXIMATE_VAE_FOLDER, VAE_FOLDER
from .model_files import FileKind, ModelFile, naming_the_file

# In `vae_approx`, Load VAE lists files by these names, of which later releases have more (`_names`): an encoder and
# a decoder that are loaded together, and files of both.
_PAIRS = ("taesd", "taesdxl", "taesd3", "taef1")
_DECODER, _ENCODER = "_decoder", "_encoder"


@dataclass(frozen=True)
class LoadedVae:
    """A VAE as ComfyUI has made it.

    Attributes:
        vae: a `comfy.sd.VAE`.
        state_dict: of the file, as it was given.
        metadata: of the file, if they were given too.
    """

    vae: Any
    state_dict: Mapping[str, torch.Tensor]
    metadata: Mapping[str, str] | None


@dataclass(frozen=True)
class VaeFiles(FileKind):
    """The names that ComfyUI's Load VAE offers: the files in `vae`, and in `vae_approx` those that it knows.

    ``pixel_space`` is left out: it has no file, and computes nothing that would be worth a way to a worker.
    """

    def list_files(self, skips: Skips | None = None) -> list[ModelFile]:
        """See `FileKind`. Of an encoder and a decoder the decoder is listed, under the name of both."""
        found = self._by_folder(skips)
        approximate = found[APPROXIMATE_VAE_FOLDER]
        pairs, whole = _names() if approximate else ((), ())
        listed = list(found[VAE_FOLDER].values())
        listed += [file for name, file in approximate.items() if PurePosixPath(name).stem in whole]
        for name in pairs:
            decoder = _first(approximate, name + _DECODER)
            if decoder is not None and _first(approximate, name + _ENCODER) is not None:
                listed.append(replace(decoder, name=name))
        return listed

    def files_of(self, name: str) -> tuple[ModelFile, ...]:
        """Return the file of that name, or the decoder and the encoder.

        Raises:
            ModelNotFoundError: there is none.
        """
        file = self.find_file(name)
        if file.folder == VAE_FOLDER or file.name == file.path.name:
            return (file,)
        encoder = _first(self._by_folder(None)[APPROXIMATE_VAE_FOLDER], file.name + _ENCODER)
        if encoder is None:
            raise ModelNotFoundError(f"The VAE {name!r:.260} has lost its encoder in {APPROXIMATE_VAE_FOLDER}.")
        return (file, encoder)

    def _by_folder(self, skips: Skips | None) -> dict[str, dict[str, ModelFile]]:
        """Return the files by their folder, and then by their name below it."""
        found: dict[str, dict[str, ModelFile]] = {folder: {} for folder in self.folders}
        for file in super().list_files(skips):
            name = file.name.removeprefix(f"{file.folder}/")
            found[file.folder].setdefault(name, replace(file, name=name))
        return found


VAES = VaeFiles("VAE", (VAE_FOLDER, APPROXIMATE_VAE_FOLDER))


def load_vae(files: tuple[ModelFile, ...]) -> LoadedVae:
    """Return a VAE of Load VAE's list, as ComfyUI's own code makes it.

    Args:
        files: of `VaeFiles.files_of`.

    Raises:
        ModelFileError: a file is damaged, or holds no VAE, or ComfyUI cannot load it.
        OutOfMemoryError: it does not fit.
    """
    return _loaded(files, lambda: _stock_loader()().load_vae(files[0].name)[0])


def load_checkpoint_vae(file: ModelFile) -> LoadedVae:
    """Return the VAE of a checkpoint, without its model and its text encoder.

    Raises:
        ModelFileError: it is damaged, or has no VAE, or ComfyUI cannot load it.
        OutOfMemoryError: it does not fit.
    """

    def load() -> Any:
        return comfy.sd.load_checkpoint_guess_config(
            str(file.path), output_vae=True, output_clip=False, output_model=False
        )[2]

    return _loaded((file,), load)


def _loaded(files: tuple[ModelFile, ...], load: Callable[[], Any]) -> LoadedVae:
    for file in files:
        check_weight_file(file.path)
    with naming_the_file(files[0], " as a VAE"), torch.inference_mode(), _recording() as made:
        vae = load()
    if not made or getattr(vae, "first_stage_model", None) is None:
        raise ModelFileError(f"There is no VAE in {files[0].path}.")
    return LoadedVae(vae, made[-1]["sd"], made[-1].get("metadata"))


@contextmanager
def _recording() -> Iterator[list[Mapping[str, Any]]]:
    """Record the arguments with which ComfyUI makes VAEs in a block: its loaders differ in what they pass on."""
    made: list[Mapping[str, Any]] = []
    kind = comfy.sd.VAE
    signature = inspect.signature(kind)

    def make(*args: Any, **kwargs: Any) -> Any:
        given = dict(signature.bind(*args, **kwargs).arguments)
        # A copy: some VAEs change their dict.
        made.append({**given, "sd": dict(given.get("sd") or {})})
        return kind(*args, **kwargs)

    comfy.sd.VAE = make
    try:
        yield made
    finally:
        comfy.sd.VAE = kind


def _first(files: Mapping[str, ModelFile], stem: str) -> ModelFile | None:
    return next((file for name, file in files.items() if name.startswith(f"{stem}.")), None)


def _names() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of pairs and of whole files in `vae_approx` that this ComfyUI's Load VAE knows."""
    loader = _stock_loader()
    return tuple(getattr(loader, "image_taes", _PAIRS)), tuple(getattr(loader, "video_taes", ()))


def _stock_loader() -> Any:
    path = list(sys.path)
    try:
        return importlib.import_module("nodes").VAELoader
    finally:
        # Importing ComfyUI's nodes puts its inner folder first, which holds modules of the same names.
        sys.path[:] = path
