"""Files of checkpoints, which have a diffusion model, a text encoder and a VAE in them, or two of these."""

from __future__ import annotations

from typing import Any

import comfy.sd
import torch

from ...backends.weight_files import bytes_of_keys, check_weight_file
from .folder_names import CHECKPOINT_FOLDER
from .model_files import FileKind, ModelFile, naming_the_file

CHECKPOINTS = FileKind("checkpoint", (CHECKPOINT_FOLDER,))
# With what the keys of a part's weights begin.
NETWORK, VAE = ("model.diffusion_model.",), ("first_stage_model.", "vae.")


def load_checkpoint(file: ModelFile, embeddings: Any) -> tuple[Any, Any, Any]:
    """Return MODEL, CLIP and VAE of a checkpoint, as ComfyUI's own loader makes them: None for a CLIP that lacks.

    Args:
        embeddings: the folders of textual inversions.

    Raises:
        ModelFileError: it is damaged, or ComfyUI cannot load it.
        OutOfMemoryError: it does not fit.
    """
    check_weight_file(file.path)
    with naming_the_file(file, " as a checkpoint"), torch.inference_mode():
        model, clip, vae = comfy.sd.load_checkpoint_guess_config(
            str(file.path), output_vae=True, output_clip=True, embedding_directory=embeddings
        )[:3]
    return model, clip, vae


def load_checkpoint_clip(file: ModelFile) -> Any:
    """Return the CLIP of a checkpoint, without reading its model and its VAE; None where it has none.

    Raises:
        ModelFileError: it is damaged, or ComfyUI cannot load it.
        OutOfMemoryError: it does not fit.
    """
    check_weight_file(file.path)
    with naming_the_file(file, " as a checkpoint"), torch.inference_mode():
        return comfy.sd.load_checkpoint_guess_config(
            str(file.path), output_vae=False, output_clip=True, output_model=False
        )[1]


def bytes_of_clip(file: ModelFile) -> int:
    """Return the bytes of a checkpoint's weights that are neither its model's nor its VAE's."""
    size = bytes_of_keys(file.path, lambda key: not key.startswith((*NETWORK, *VAE)))
    return file.size_bytes if size is None else size


def bytes_of_vae(file: ModelFile) -> int:
    """Return the bytes of a checkpoint's VAE; 0 where it has none."""
    size = bytes_of_keys(file.path, lambda key: key.startswith(VAE))
    return file.size_bytes if size is None else size
