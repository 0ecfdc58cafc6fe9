"""Where a ComfyUI has its models, and how it loads one: at the worker, and locally for the same file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.sd
import folder_paths
import torch

from ...backends.base import (
    BackendError,
    ModelFileError,
    ModelNotFoundError,
    ModelRunError,
    is_out_of_memory,
    no_room_for,
)
from ...backends.model_folders import Skips, files_in
from ...backends.weight_files import check_weight_file

FOLDERS = ("diffusion_models", "checkpoints")
# ComfyUI's own loader offers these.
WEIGHT_DTYPES = ("default", "fp8_e4m3fn", "fp8_e4m3fn_fast", "fp8_e5m2")


@dataclass(frozen=True)
class ModelFile:
    """One file: `name` as shown and asked for, `folder` the kind it lies in, its size when it was found."""

    name: str
    folder: str
    path: Path
    size_bytes: int


def find_models(skips: Skips | None = None) -> list[ModelFile]:
    """Return every file in ComfyUI's diffusion model and checkpoint folders that can be read.

    A name is the path below its folder, with forward slashes; one that both kinds of folder hold is shown
    with its folder in front. `skips` is told of what is passed over.
    """
    files = [file for folder in FOLDERS for file in files_of(folder, skips)]
    counts = Counter(file.name for file in files)
    return [file if counts[file.name] == 1 else replace(file, name=f"{file.folder}/{file.name}") for file in files]


def files_of(folder: str, skips: Skips | None = None) -> list[ModelFile]:
    """Return the readable files in ComfyUI's folders of one kind, by name; `skips` as in `find_models`.

    As ComfyUI lists them, which is halted by a folder that two links lead back into.
    """
    suffixes = folder_paths.folder_names_and_paths[folder][1]
    skips = Skips() if skips is None else skips
    found: dict[str, ModelFile] = {}
    for root in folder_paths.get_folder_paths(folder):
        for file in files_in(Path(root), lambda name: not suffixes or Path(name).suffix.lower() in suffixes, skips):
            found.setdefault(file.name, ModelFile(file.name, folder, file.path, file.size_bytes))
    return [found[name] for name in sorted(found)]


def folders() -> tuple[str, ...]:
    """Return the folders that models are looked for in."""
    return tuple(path for folder in FOLDERS for path in folder_paths.get_folder_paths(folder))


def find_model(name: str) -> ModelFile:
    """The file of that name; with its folder in front it is found either way.

    Raises:
        ModelNotFoundError: there is none; names the folders looked in.
    """
    wanted = name.replace("\\", "/")
    files = find_models()
    for file in files:
        if wanted in {file.name, f"{file.folder}/{file.name}"}:
            return file
    if any(file.name.endswith(f"/{wanted}") and file.name.split("/", 1)[0] in FOLDERS for file in files):
        choices = " or ".join(f"{folder}/{wanted}" for folder in FOLDERS)
        raise ModelNotFoundError(f"There are two models {wanted!r}: ask for {choices}.")
    raise ModelNotFoundError(
        f"There is no model {wanted!r}. Looked in {', '.join(folders())}. Put it there, or choose another in the "
        "node, whose button asks for the list again."
    )


def load_options(weight_dtype: str) -> dict[str, Any]:
    """ComfyUI's `model_options` for that weight dtype, as its own loader makes them.

    Raises:
        ModelRunError: ComfyUI's loader has no such choice.
    """
    if weight_dtype not in WEIGHT_DTYPES:
        raise ModelRunError(f"weight_dtype {weight_dtype!r}: ComfyUI loads {', '.join(WEIGHT_DTYPES)}.")
    if weight_dtype == "default":
        return {}
    if weight_dtype == "fp8_e5m2":
        return {"dtype": torch.float8_e5m2}
    options: dict[str, Any] = {"dtype": torch.float8_e4m3fn}
    if weight_dtype == "fp8_e4m3fn_fast":
        options["fp8_optimizations"] = True
    return options


@contextmanager
def naming_the_file(file: ModelFile, kind: str = "") -> Iterator[None]:
    """Have errors that end loading say of which file they are; `kind` is what it is loaded as, " as a …".

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


def load_patcher(file: ModelFile, weight_dtype: str) -> Any:
    """The model in a ComfyUI `ModelPatcher`, loaded by ComfyUI's own loaders; no text encoder, no VAE.

    Raises:
        ModelFileError: it is damaged, or ComfyUI cannot tell what it is, or cannot load it.
        OutOfMemoryError: it does not fit.
    """
    options = load_options(weight_dtype)
    check_weight_file(file.path)
    # Inference as in ComfyUI's executor: weights made outside want gradients, and torch then multiplies matrices
    # another way, with another last bit.
    with naming_the_file(file), torch.inference_mode():
        if file.folder == "diffusion_models":
            patcher = comfy.sd.load_diffusion_model(str(file.path), model_options=options)
        else:
            patcher = comfy.sd.load_checkpoint_guess_config(
                str(file.path), output_vae=False, output_clip=False, model_options=options
            )[0]
    if patcher is None:
        raise ModelFileError(f"There is no diffusion model in {file.path}.")
    return patcher
