"""The VAE of a checkpoint, without its model and its text encoder."""

from __future__ import annotations

from typing import Self

from ....backends.weight_files import bytes_of_keys
from ....protocol.messages import ModelRef
from ...installation.text_encoder_files import CHECKPOINTS
from ...installation.vae_files import load_checkpoint_vae
from ...wire.vae_calls import CHECKPOINT_PREFIX
from .runnable_module import ModuleFiles
from .vae import Vae

# With what the keys of a checkpoint's VAE begin.
_OWN = ("first_stage_model.", "vae.")


class CheckpointVae(Vae):
    """The VAE of a checkpoint, in memory. The file's other parts are modules of their own."""

    prefix = CHECKPOINT_PREFIX
    files = CHECKPOINTS

    @classmethod
    def find(cls, ref: ModelRef) -> ModuleFiles:
        """See `RunnableModule`: one file, without options."""
        file = cls.single_file(ref)
        size = bytes_of_keys(file.path, lambda key: key.startswith(_OWN))
        return ModuleFiles(ref, (file,), file.size_bytes if size is None else size)

    @classmethod
    def load(cls, found: ModuleFiles) -> Self:
        """See `RunnableModule`."""
        found.refuse_weight_dtype("VAEs")
        return cls(load_checkpoint_vae(found.files[0]))
