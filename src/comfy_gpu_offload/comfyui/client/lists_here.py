"""The lists of this machine's own files, which the loaders' combos offer while no worker is configured."""

from __future__ import annotations

from ..installation.audio_encoder_files import AUDIO_ENCODERS as AUDIO_ENCODER_FILES
from ..installation.checkpoint_files import CHECKPOINTS as CHECKPOINT_FILES
from ..installation.clip_vision_files import CLIP_VISIONS as CLIP_VISION_FILES
from ..installation.control_net_files import CONTROL_NETS as CONTROL_NET_FILES
from ..installation.diffusion_model_files import DIFFUSION_MODELS
from ..installation.text_encoder_files import TEXT_ENCODERS as TEXT_ENCODER_FILES
from ..installation.upscale_model_files import UPSCALE_MODELS as UPSCALE_MODEL_FILES
from ..installation.vae_files import VAES as VAE_FILES
from .model_lists import (
    AUDIO_ENCODERS,
    CHECKPOINTS,
    CLIP_VISIONS,
    CONTROL_NETS,
    MODELS,
    TEXT_ENCODERS,
    UPSCALE_MODELS,
    VAES,
    Lists,
)

_FILES = {
    MODELS: DIFFUSION_MODELS,
    CONTROL_NETS: CONTROL_NET_FILES,
    TEXT_ENCODERS: TEXT_ENCODER_FILES,
    CHECKPOINTS: CHECKPOINT_FILES,
    VAES: VAE_FILES,
    CLIP_VISIONS: CLIP_VISION_FILES,
    UPSCALE_MODELS: UPSCALE_MODEL_FILES,
    AUDIO_ENCODERS: AUDIO_ENCODER_FILES,
}


def lists_here() -> Lists:
    """Return the names of this machine's own files by the list's kind."""
    return {kind: tuple(file.name for file in files.list_files()) for kind, files in _FILES.items()}
