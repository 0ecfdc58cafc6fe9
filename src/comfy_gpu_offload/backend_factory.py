"""The backends by name. Each is imported only when it is chosen, because it needs packages of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .backends.base import Backend

BackendName = Literal["comfyui", "diffusers"]


@dataclass(frozen=True)
class BackendOptions:
    """The choice of a backend and what it is made with.

    Attributes:
        name: the backend's.
        comfyui: the ComfyUI folder; the comfyui backend needs one.
        models: as that backend's own argument.
        extra_model_paths: further files of the form of ComfyUI's extra_model_paths.yaml.
        cpu: use no GPU.
        model_bytes: the most that loaded models may take; 0 for as much as memory allows.
    """

    name: BackendName
    comfyui: Path | None = None
    models: Path | None = None
    extra_model_paths: tuple[Path, ...] = ()
    cpu: bool = False
    model_bytes: int = 0


def make_backend(options: BackendOptions) -> Backend:
    """Return the backend, ready to load models.

    Raises:
        ConfigError: ComfyUI does not start.
        ModuleNotFoundError: the backend's extra is not installed.
    """
    return _comfyui(options) if options.name == "comfyui" else _diffusers(options)


def _comfyui(options: BackendOptions) -> Backend:
    from .comfyui.worker.backend import ComfyUIBackend  # noqa: PLC0415

    if options.comfyui is None:
        raise ValueError("the comfyui backend needs a ComfyUI folder")
    return ComfyUIBackend(
        options.comfyui,
        models_dir=options.models,
        extra_model_paths=options.extra_model_paths,
        cpu=options.cpu,
        model_bytes=options.model_bytes,
    )


def _diffusers(options: BackendOptions) -> Backend:
    import torch  # noqa: PLC0415

    from .backends.diffusers.backend import DiffusersBackend  # noqa: PLC0415

    device = torch.device("cpu") if options.cpu else None
    return DiffusersBackend(options.models, device=device, model_bytes=options.model_bytes)
