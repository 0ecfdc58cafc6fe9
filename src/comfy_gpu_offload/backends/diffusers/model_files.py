"""Models of the libraries diffusers and transformers on disk: found in folders, and loaded."""

from __future__ import annotations

import importlib
import json
import re
import shutil
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import diffusers
import torch
from safetensors import SafetensorError

from ..base import ModelFileError, ModelNotFoundError, ModelRunError
from ..model_folders import FoundFile, Skips, files_in, is_offerable
from .weight_choice import INDEX, STANDARD, TRANSFORMERS_WEIGHTS, WEIGHTS, stored_dtype, taken

_DIFFUSERS, _TRANSFORMERS = "diffusers", "transformers"
_CONFIG = "config.json"
_SUFFIX = ".safetensors"
_SHARD = re.compile(r".+-\d{5}-of-\d{5}\.safetensors")
_DEEPEST = 4
_MAX_CONFIG_BYTES = 4 * 1024**2


@dataclass(frozen=True)
class ModelClass:
    """A class of models: `library` is ``diffusers``, or ``transformers`` for text encoders of pipelines."""

    library: str
    name: str

    @property
    def weights(self) -> str:
        """The name that the library gives a model's file."""
        return WEIGHTS if self.library == _DIFFUSERS else TRANSFORMERS_WEIGHTS


@dataclass(frozen=True)
class DiffusersModel:
    """A model on disk.

    Attributes:
        folder: holds its config.
        files: the weights that are loaded.
        kind: the class that loads them.
    """

    name: str
    folder: Path
    files: tuple[Path, ...]
    kind: ModelClass
    size_bytes: int


def find_models(root: Path, skips: Skips) -> Iterator[DiffusersModel]:
    """Return the models at `root`: a model's folder, its weights file, or a folder that holds models.

    Names are paths below `root`, with forward slashes; a model that is `root` itself has its folder's name. `skips`
    is told of what is passed over.
    """
    if root.is_file():
        kind = _class_of(root.parent, skips)
        if kind is not None:
            yield DiffusersModel(root.stem, root.parent, (root,), kind, root.stat().st_size)
        return
    folders: defaultdict[Path, list[FoundFile]] = defaultdict(list)
    for file in files_in(root, lambda name: name == _CONFIG or name.endswith(_SUFFIX), skips, _DEEPEST):
        folders[file.path.parent].append(file)
    for folder, files in sorted(folders.items()):
        by_name = {file.path.name: file for file in files}
        has_config = by_name.pop(_CONFIG, None) is not None
        weights = [by_name[file] for file in taken(folder, by_name)]
        kind = _class_of(folder, skips) if weights and has_config else None
        if kind is None or _lacks_weights(folder, root, skips):
            continue
        name = folder.relative_to(root).as_posix() if folder != root else root.resolve().name
        if is_offerable(name, skips):
            paths = tuple(file.path for file in weights)
            yield DiffusersModel(name, folder, paths, kind, sum(file.size_bytes for file in weights))


def _lacks_weights(folder: Path, root: Path, skips: Skips) -> bool:
    """Return whether a file without which diffusers cannot load the folder's model was passed over."""
    below = folder.relative_to(root).as_posix()
    prefix = "" if below == "." else f"{below}/"
    passed_over = [name.removeprefix(prefix) for name in skips.entries if name.startswith(prefix)]
    return any(name in STANDARD or _SHARD.fullmatch(name) for name in passed_over)


def _class_of(folder: Path, skips: Skips) -> ModelClass | None:
    """Return the class that the folder's config names, or None: config files come from strangers."""
    config = folder / _CONFIG
    try:
        if config.stat().st_size > _MAX_CONFIG_BYTES:
            skips.add(str(config), "it is larger than any model's")
            return None
        read = json.loads(config.read_text(encoding="utf-8"))
        name, architectures = read.get("_class_name"), read.get("architectures")
    except (OSError, ValueError, AttributeError, RecursionError):
        skips.add(str(config), "it is no model's: not JSON")
        return None
    if name is None and isinstance(architectures, list) and len(architectures) == 1:
        return _of_transformers(folder, architectures[0], skips)
    kind = getattr(diffusers, name, None) if isinstance(name, str) else None
    is_model = isinstance(kind, type) and issubclass(kind, diffusers.ModelMixin)
    return ModelClass(_DIFFUSERS, str(name)) if is_model else None


def _of_transformers(folder: Path, name: Any, skips: Skips) -> ModelClass | None:
    try:
        transformers = importlib.import_module(_TRANSFORMERS)
    except ImportError:
        skips.add(str(folder), "it is a model of transformers, which is not installed: pip install transformers")
        return None
    kind = getattr(transformers, name, None) if isinstance(name, str) else None
    is_model = isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)
    return ModelClass(_TRANSFORMERS, str(name)) if is_model else None


def choose_dtype(model: DiffusersModel, weight_dtype: str, device: torch.device) -> torch.dtype:
    """Return the dtype to load in: the one asked for, else the file's own; on a CPU bfloat16 for half precision.

    Raises:
        ModelRunError: `weight_dtype` is none that this backend loads.
    """
    named = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
    if weight_dtype in named:
        return named[weight_dtype]
    if weight_dtype != "default":
        raise ModelRunError(
            f"weight_dtype {weight_dtype!r} is unknown to diffusers workers: choose default, {', '.join(named)}."
        )
    stored = stored_dtype(model.files)
    # Most CPUs compute float16 by way of float32, slower than either.
    return torch.bfloat16 if device.type == "cpu" and stored is torch.float16 else stored


def load(model: DiffusersModel, dtype: torch.dtype, device: torch.device) -> torch.nn.Module:
    """Load the model as its library does, ready to run. Only safetensors are read, never a pickle.

    Raises:
        ModelNotFoundError: its files are gone.
        ModelFileError: its library cannot load it.
    """
    kind: Any = getattr(importlib.import_module(model.kind.library), model.kind.name)
    # Without the latter diffusers warns where accelerate is not installed.
    own = {"torch_dtype": dtype, "low_cpu_mem_usage": False}
    if model.kind.library == _TRANSFORMERS:
        own = {"dtype": dtype}
    try:
        with _standard_folder(model) as folder:
            loaded: torch.nn.Module = kind.from_pretrained(
                folder, use_safetensors=True, local_files_only=True, **own
            )
    except FileNotFoundError as error:
        raise ModelNotFoundError(f"The files of {model.name!r} are gone from {model.folder}.") from error
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        raise ModelFileError(f"{model.kind.library} cannot load {model.name!r}: {str(error)[:500]}") from error
    # Left to require gradients, as a user's own: torch multiplies some shapes another way where none are needed,
    # and the last bit would differ from a local run.
    return loaded.to(device).eval()


@contextmanager
def _standard_folder(model: DiffusersModel) -> Iterator[Path]:
    """Give a folder in which diffusers finds the model: its own, or one of links, for weights of another name."""
    standard = model.kind.weights
    is_standard = model.files[0].name == standard and not (model.folder / f"{standard}{INDEX}").exists()
    if len(model.files) > 1 or is_standard:
        yield model.folder
        return
    with TemporaryDirectory(prefix="comfy-gpu-offload-") as name:
        folder = Path(name)
        _link(folder / _CONFIG, model.folder / _CONFIG)
        _link(folder / standard, model.files[0])
        yield folder


def _link(link: Path, target: Path) -> None:
    """Make `link` a link to `target`, or a copy where this user may make none, as on Windows."""
    try:
        link.symlink_to(target.resolve())
    except OSError:
        shutil.copyfile(target, link)
