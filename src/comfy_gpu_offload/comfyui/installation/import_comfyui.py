"""The import of a ComfyUI folder's code as a library, without server and custom nodes, and its model folders."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ...errors import ConfigError

if TYPE_CHECKING:  # it imports ComfyUI
    from .model_files import FileKind

logger = logging.getLogger(__name__)


def enter(root: Path, *, cpu: bool) -> str:
    """Import ComfyUI from `root`, and return its version.

    Args:
        cpu: use no GPU, even where there is one.

    Raises:
        ConfigError: something it needs is not installed.
    """
    sys.path.insert(0, str(root.resolve()))
    try:
        arguments = importlib.import_module("comfy.cli_args").args
        # Must be set before model_management is imported: it looks for a device then.
        if cpu or not _has_accelerator():
            arguments.cpu = True
        importlib.import_module("comfy.model_management")
        importlib.import_module("comfy.sd")
        return str(importlib.import_module("comfyui_version").__version__)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"ComfyUI in {root} does not start: {error.name} is not installed for {sys.executable}. Run this "
            "worker with ComfyUI's own interpreter; COMFYUI_PYTHON names it."
        ) from error


def _has_accelerator() -> bool:
    backends = (torch.cuda, getattr(torch, "xpu", None), getattr(torch.backends, "mps", None))
    return any(backend is not None and backend.is_available() for backend in backends)


def add_model_paths(root: Path, yaml_files: Sequence[Path]) -> None:
    """Register the model folders of `root`'s extra_model_paths.yaml, and of other such files.

    Raises:
        ConfigError: a file cannot be read.
    """
    load = importlib.import_module("utils.extra_config").load_extra_path_config
    default = root / "extra_model_paths.yaml"
    for path in [*([default] if default.is_file() else []), *yaml_files]:
        try:
            load(str(path))
        except Exception as error:  # a YAML library's own errors, or a file that is no mapping
            raise ConfigError(
                f"{path} is not a file of extra model paths ({type(error).__name__}): compare it with ComfyUI's "
                "extra_model_paths.yaml.example."
            ) from error


def add_models_dir(models_dir: Path, kinds: Sequence[FileKind]) -> None:
    """Register a folder's subfolders of model files by their names, also those that new files will make.

    Where it has files but no subfolder for the first of `kinds`, the folder itself holds files of that kind.
    """
    add = importlib.import_module("folder_paths").add_model_folder_path
    # The last one of a name that is registered comes first.
    there = [
        (folder, models_dir / name)
        for kind in kinds
        for name, folder in {**{folder: folder for folder in kind.folders}, **kind.aliases}.items()
        if (models_dir / name).is_dir()
    ]
    has_none = not any(folder in kinds[0].folders for folder, _ in there)
    if has_none and _has_entries(models_dir):
        there.append((kinds[0].folders[0], models_dir))
        kinds = [kind for kind in kinds if not set(kind.folders) & set(kinds[0].folders)]
    missing = [(folder, models_dir / folder) for kind in kinds for folder in kind.folders]
    for folder, path in dict.fromkeys([*(pair for pair in missing if pair not in there), *there]):
        add(folder, str(path.resolve()), True)


def _has_entries(folder: Path) -> bool:
    """Return whether a folder has anything in it, besides what a new volume's file system puts there."""
    return any(not entry.name.startswith(".") and entry.name != "lost+found" for entry in folder.iterdir())
