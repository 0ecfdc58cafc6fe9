"""The kinds of modules that this worker has; a kind of module is one file in this folder, and one line here."""

from __future__ import annotations

from ....backends.base import ModelRunError
from ....protocol.messages import ModelRef
from .audio_encoder import AudioEncoder
from .checkpoint_clip import CheckpointClip
from .checkpoint_vae import CheckpointVae
from .clip_vision import ClipVision
from .control_net import ControlNet
from .diffusion_model import DiffusionModel
from .runnable_module import RunnableModule
from .text_encoder import TextEncoder
from .upscale_model import UpscaleModel
from .vae import Vae

KINDS: tuple[type[RunnableModule], ...] = (
    DiffusionModel,
    ControlNet,
    TextEncoder,
    CheckpointClip,
    Vae,
    CheckpointVae,
    ClipVision,
    UpscaleModel,
    AudioEncoder,
)


# Clients of the first releases know these, and would take files of all others for models.
KNOWN_TO_ALL = (DiffusionModel, ControlNet)


def kind_of(ref: ModelRef) -> type[RunnableModule]:
    """Return the kind of module that a request names, by the prefix of the name; no prefix is a diffusion model."""
    return next((kind for kind in KINDS if kind.prefix and ref.name.startswith(kind.prefix)), DiffusionModel)


def listed_method(ref: ModelRef, name: object) -> str:
    """Return the method of that name, if calls may ask for it.

    Raises:
        ModelRunError: the module's kind does not list it.
    """
    methods = kind_of(ref).methods
    if isinstance(name, str) and name in methods:
        return name
    raise ModelRunError(
        f"The {kind_of(ref).files.noun} {ref.name!r:.260} has no method {name!r:.80} for calls (it has "
        f"{', '.join(methods) or 'none'}): use the same release on both sides."
    )
