"""Files of upscale models, and their loading by ComfyUI's own node, at the worker or locally."""

from __future__ import annotations

import importlib
from typing import Any

import torch

from ...backends.base import ModelFileError
from ...backends.weight_files import check_weight_file
from .folder_names import UPSCALE_MODEL_FOLDER
from .model_files import FileKind, ModelFile, naming_the_file
from .stock_nodes import imported

UPSCALE_MODELS = FileKind("upscale model", (UPSCALE_MODEL_FOLDER,))
_STOCK_NODES = "nodes_upscale_model"


def load_upscale_model(file: ModelFile) -> Any:
    """Return an UPSCALE_MODEL, spandrel's descriptor, as ComfyUI's own node makes it.

    Raises:
        ModelFileError: the file is damaged, or holds no upscale model, or spandrel does not know it.
        ModelRunError: this ComfyUI cannot import spandrel.
        OutOfMemoryError: it does not fit.
    """
    check_weight_file(file.path)
    loader = imported(_STOCK_NODES).UpscaleModelLoader
    with naming_the_file(file, " as an upscale model"), torch.inference_mode():
        try:
            return loader.execute(file.name).args[0]
        except importlib.import_module("spandrel").UnsupportedModelError as error:
            raise ModelFileError(
                f"There is no upscale model in {file.path} that this spandrel knows: update it, or choose another."
            ) from error


def upscale(model: Any, picture: torch.Tensor) -> Any:
    """Return what ComfyUI's own node makes of a picture [B, H, W, C] with an UPSCALE_MODEL."""
    return imported(_STOCK_NODES).ImageUpscaleWithModel.execute(model, picture).args[0]
