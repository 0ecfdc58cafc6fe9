"""The VAE of a checkpoint: a file that also has a diffusion model and a text encoder in it."""

from __future__ import annotations

from typing import Self

from ....backends.base import ModelNotFoundError
from ....protocol.messages import ModelRef
from ...installation.checkpoint_files import CHECKPOINTS, bytes_of_vae
from ...installation.vae_files import load_checkpoint_vae
from ...wire.vae_calls import CHECKPOINT_PREFIX
from .runnable_module import ModuleFiles
from .vae import Vae


class CheckpointVae(Vae):
    """The VAE of a checkpoint, in memory; see `checkpoint_clip`."""

    prefix = CHECKPOINT_PREFIX
    files = CHECKPOINTS

    @classmethod
    def find(cls, ref: ModelRef) -> ModuleFiles:
        """See `RunnableModule`: one file, without options."""
        file = cls.single_file(ref)
        return ModuleFiles(ref, (file,), bytes_of_vae(file))

    @classmethod
    def load(cls, found: ModuleFiles) -> Self:
        """See `RunnableModule`."""
        found.refuse_weight_dtype("VAEs")
        (file,) = found.files
        if not bytes_of_vae(file):
            raise ModelNotFoundError(f"There is no VAE in {file.path}: load one with Remote VAE Loader.")
        return cls(load_checkpoint_vae(file))
