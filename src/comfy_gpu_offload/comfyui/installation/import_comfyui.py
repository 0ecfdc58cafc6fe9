"""Makes a ComfyUI folder's code importable in this process, as a library: no server, no custom nodes."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from ...errors import ConfigError

logger = logging.getLogger(__name__)

_SUBFOLDERS = {
    "diffusion_models": "diffusion_models",
    "unet": "diffusion_models",
    "checkpoints": "checkpoints",
    "controlnet": "controlnet",
    "t2i_adapter": "controlnet",
}


def enter(root: Path, *, cpu: bool) -> str:
    """Imports ComfyUI from `root`; returns its version. `cpu`: use no GPU, even where there is one.

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


def add_model_folders(root: Path, models_dir: Path | None, yaml_files: Sequence[Path]) -> None:
    """Registers the model folders of `root`'s extra_model_paths.yaml, of other such files, and `models_dir`.

    Raises:
        ConfigError: a file cannot be read.
    """
    load = importlib.import_module("utils.extra_config").load_extra_path_config
    default = root / "extra_model_paths.yaml"
    for path in [*([default] if default.is_file() else []), *yaml_files]:
        try:
            load(str(path))
        except Exception as error:  # a YAML library's own errors, or a file that is no mapping
            raise ConfigError(f"{path}: not a file of extra model paths ({type(error).__name__})") from error
    if models_dir is None:
        return
    add = importlib.import_module("folder_paths").add_model_folder_path
    found = [(kind, models_dir / name) for name, kind in _SUBFOLDERS.items() if (models_dir / name).is_dir()]
    if all(kind == "controlnet" for kind, _ in found):
        found.append(("diffusion_models", models_dir))
    for kind, folder in found:
        add(kind, str(folder.resolve()), True)
