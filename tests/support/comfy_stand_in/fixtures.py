"""The fixture that makes the stand-in importable, and takes it away again."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

CHECKOUT = Path(__file__).parent / "checkout"
# The top-level modules of a ComfyUI.
_THEIRS = tuple(path.stem for path in CHECKOUT.iterdir() if path.suffix == ".py" or path.is_dir())
# Modules of ours that import ComfyUI, or keep something of it.
_OURS = ("comfy_gpu_offload.comfyui", "comfy_gpu_offload.nodes")


@dataclass(frozen=True)
class StandIn:
    """The stand-in: `root` is its checkout, `models` a folder with one folder for each kind of model file."""

    root: Path
    models: Path

    def write(self, folder: str, name: str, weights: dict[str, torch.Tensor]) -> Path:
        """Write a safetensors file below the folder of that kind."""
        path = self.models / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(weights, path)
        return path

    def write_model(self, name: str, folder: str = "diffusion_models", scale: float = 1.0) -> Path:
        """Write a diffusion model: `[4, 4]` and `[4]` weights, a linear layer over the channels of its latent."""
        generator = torch.Generator().manual_seed(7)
        weight = torch.randn(4, 4, generator=generator) * scale
        return self.write(folder, name, {"layer.weight": weight, "layer.bias": torch.full((4,), 0.5 * scale)})

    def write_control_net(self, name: str, scale: float = 1.0, **further: torch.Tensor) -> Path:
        """Write a ControlNet, which gives the mean of its picture and of the latent, times `scale`."""
        return self.write("controlnet", name, {"control.scale": torch.tensor([scale]), **further})


@pytest.fixture(scope="module")
def _importable() -> Iterator[None]:
    real = [name for name in sys.modules if name.split(".")[0] in {"comfy", "folder_paths"}]
    assert not real, f"a real ComfyUI is imported in this process already: {real[0]}"
    set_aside = _taken(*_OURS)
    path = list(sys.path)
    sys.path.insert(0, str(CHECKOUT))
    try:
        yield
    finally:
        _taken(*_OURS, *_THEIRS)
        sys.modules.update(set_aside)
        sys.path[:] = path


@pytest.fixture
def comfy_stand_in(_importable: None, tmp_path: Path) -> Iterator[StandIn]:
    """Give a stand-in without models.

    Import what needs ComfyUI within the test: the package's modules that do are imported anew for each file.
    """
    import comfy.model_management
    import folder_paths

    folders = {name: (list(paths), set(suffixes)) for name, (paths, suffixes) in _folders().items()}
    _folders().clear()
    for name, (_, suffixes) in folders.items():
        (tmp_path / "models" / name).mkdir(parents=True)
        _folders()[name] = ([str(tmp_path / "models" / name)], set(suffixes))
    folder_paths.user_directory = str(tmp_path / "user")
    comfy.model_management.forget()
    yield StandIn(CHECKOUT, tmp_path / "models")
    _folders().clear()
    _folders().update(folders)
    comfy.model_management.forget()


def _folders() -> dict[str, Any]:
    import folder_paths

    return folder_paths.folder_names_and_paths


def _taken(*packages: str) -> dict[str, ModuleType]:
    """Take these packages and what is in them out of `sys.modules`."""
    names = [name for name in sys.modules if name in packages or name.startswith(tuple(f"{p}." for p in packages))]
    return {name: sys.modules.pop(name) for name in names}
