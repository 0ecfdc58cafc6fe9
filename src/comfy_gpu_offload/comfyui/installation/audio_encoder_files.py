"""Files of audio encoders, and their loading by ComfyUI's own node, at the worker or locally."""

from __future__ import annotations

from typing import Any

import torch

from ...backends.weight_files import check_weight_file
from .folder_names import AUDIO_ENCODER_FOLDER
from .model_files import FileKind, ModelFile, naming_the_file
from .stock_nodes import imported

AUDIO_ENCODERS = FileKind("audio encoder", (AUDIO_ENCODER_FOLDER,))


def load_audio_encoder(file: ModelFile) -> Any:
    """Return an AUDIO_ENCODER, as ComfyUI's own node makes it.

    Raises:
        ModelFileError: the file is damaged, or holds no audio encoder, or ComfyUI cannot load it.
        ModelRunError: this ComfyUI lacks audio encoders, or cannot import torchaudio.
        OutOfMemoryError: it does not fit.
    """
    check_weight_file(file.path)
    loader = imported("nodes_audio_encoder").AudioEncoderLoader
    with naming_the_file(file, " as an audio encoder"), torch.inference_mode():
        return loader.execute(file.name).args[0]
