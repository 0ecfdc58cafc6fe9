"""The text encoder of a checkpoint: a file that also has a diffusion model and a VAE in it."""

from __future__ import annotations

from typing import Any, Self

import comfy.model_management

from ....backends.base import ModelNotFoundError
from ....protocol.messages import ModelRef
from ...installation.checkpoint_files import CHECKPOINTS, bytes_of_clip, load_checkpoint_clip
from ...wire.text_encoder_calls import CHECKPOINT_PREFIX
from .runnable_module import ModuleFiles
from .text_encoder import TextEncoder


class CheckpointClip(TextEncoder):
    """The text encoder of a checkpoint, in memory. The file's other parts are modules of their own.

    Each of the three is loaded when it is asked for, and leaves memory by itself: weights are mapped from the file
    and read once, whichever module reads them.
    """

    prefix = CHECKPOINT_PREFIX
    files = CHECKPOINTS

    @classmethod
    def find(cls, ref: ModelRef) -> ModuleFiles:
        """See `RunnableModule`: one file, without options."""
        file = cls.single_file(ref)
        return ModuleFiles(ref, (file,), bytes_of_clip(file))

    @classmethod
    def load(cls, found: ModuleFiles) -> Self:
        """See `RunnableModule`."""
        found.refuse_weight_dtype("text encoders")
        management: Any = comfy.model_management
        dtype = management.text_encoder_dtype(management.text_encoder_device())
        (file,) = found.files
        clip = load_checkpoint_clip(file) if bytes_of_clip(file) else None
        if clip is None:
            raise ModelNotFoundError(
                f"There is no text encoder in {file.path}: load one with Remote CLIP Loader or its kin."
            )
        return cls(clip, dtype, found.files)
