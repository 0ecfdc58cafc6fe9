"""Files of CLIP vision models, also within checkpoints, and their loading by ComfyUI's own code, at either end."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import comfy.clip_vision
import comfy.sd
import torch

from ...backends.base import ModelFileError
from ...backends.model_folders import Skips
from ...backends.weight_files import bytes_of_keys, check_weight_file
from .checkpoint_files import CHECKPOINTS
from .folder_names import CHECKPOINT_FOLDER, CLIP_VISION_FOLDER
from .model_files import FileKind, ModelFile, naming_the_file

# With what the keys of image encoders begin in checkpoints: SD 2.1 unCLIP; Stable Video Diffusion and SV3D; Stable
# Zero123; Hunyuan3D 2 (`clip_vision_prefix` of comfy.supported_models).
_IN_CHECKPOINTS = (
    "embedder.model.visual.",
    "conditioner.embedders.0.open_clip.model.visual.",
    "cond_stage_model.model.visual.",
    "conditioner.main_image_encoder.model.",
)


@dataclass(frozen=True)
class PartOfCheckpoint(ModelFile):
    """A checkpoint, listed for the image encoder in it."""


@dataclass(frozen=True)
class ClipVisionFiles(FileKind):
    """Files in `clip_vision`, and, named ``checkpoints/…``, checkpoints with an image encoder in them."""

    def list_files(self, skips: Skips | None = None) -> list[ModelFile]:
        """See `FileKind`."""
        listed = super().list_files(skips)
        for file in CHECKPOINTS.list_files():
            if _bytes_in_checkpoint(file.path):
                name = f"{CHECKPOINT_FOLDER}/{file.name.removeprefix(f'{CHECKPOINT_FOLDER}/')}"
                listed.append(PartOfCheckpoint(name, CLIP_VISION_FOLDER, file.path, file.size_bytes))
        return listed


CLIP_VISIONS = ClipVisionFiles("CLIP vision model", (CLIP_VISION_FOLDER,))


def bytes_of_encoder(file: ModelFile) -> int:
    """Return the bytes of a file's weights that belong to the image encoder."""
    return _bytes_in_checkpoint(file.path) if isinstance(file, PartOfCheckpoint) else file.size_bytes


def _bytes_in_checkpoint(path: Path) -> int:
    """Return the bytes of a checkpoint's image encoder; 0 for none."""
    try:
        found = path.stat()
        return _bytes_in(path, found.st_mtime_ns, found.st_size)
    except OSError:
        return 0


@lru_cache(maxsize=4096)
def _bytes_in(path: Path, changed_ns: int, size_bytes: int) -> int:
    # Each list asks this of every checkpoint; the time and the size tell files under one name apart.
    return bytes_of_keys(path, lambda key: key.startswith(_IN_CHECKPOINTS)) or 0


def load_clip_vision(file: ModelFile) -> Any:
    """Return a CLIP_VISION, as ComfyUI's own loaders make it.

    Raises:
        ModelFileError: the file is damaged, or holds no image encoder, or ComfyUI cannot load it.
        OutOfMemoryError: it does not fit.
    """
    check_weight_file(file.path)
    with naming_the_file(file, " as a CLIP vision model"), torch.inference_mode():
        found = (
            _of_checkpoint(file) if isinstance(file, PartOfCheckpoint) else comfy.clip_vision.load(str(file.path))
        )
    if found is None:
        raise ModelFileError(f"There is no CLIP vision model in {file.path}.")
    return found


def _of_checkpoint(file: ModelFile) -> Any:
    return comfy.sd.load_checkpoint_guess_config(
        str(file.path), output_vae=False, output_clip=False, output_clipvision=True, output_model=False
    )[3]
