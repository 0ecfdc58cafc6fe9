"""The text encoder of a checkpoint: a file that also has a diffusion model and a VAE in it."""

from __future__ import annotations

from typing import Any, Self

import comfy.model_management

from ....backends.weight_files import bytes_of_keys
from ....protocol.messages import ModelRef
from ...installation.text_encoder_files import CHECKPOINTS, load_checkpoint_clip
from ...wire.text_encoder_calls import CHECKPOINT_PREFIX
from .runnable_module import ModuleFiles
from .text_encoder import TextEncoder

# With what the keys of a checkpoint's other parts begin.
_OTHERS = ("model.diffusion_model.", "first_stage_model.", "vae.")


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
        size = bytes_of_keys(file.path, lambda key: not key.startswith(_OTHERS))
        return ModuleFiles(ref, (file,), file.size_bytes if size is None else size)

    @classmethod
    def load(cls, found: ModuleFiles) -> Self:
        """See `RunnableModule`."""
        found.refuse_weight_dtype("text encoders")
        management: Any = comfy.model_management
        dtype = management.text_encoder_dtype(management.text_encoder_device())
        return cls(load_checkpoint_clip(found.files[0]), dtype, found.files)
