"""Functions of the loader nodes of CLIP vision, upscale models and audio encoders: at the worker, or here."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ...backends.base import BackendError
from ...config.findings import checked_settings, told_with_errors
from ...errors import OffloadError
from ...protocol.messages import ModelRef, made
from ..wire import audio_encoder_calls, clip_vision_calls, upscale_calls
from . import loader

if TYPE_CHECKING:
    from .remote_audio_encoder import RemoteAudioEncoder
    from .remote_clip_vision import RemoteClipVision
    from .remote_upscale_model import RemoteUpscaleModel


@told_with_errors()
def load_remote_clip_vision(name: str) -> RemoteClipVision:
    """Return a CLIP_VISION for the configured worker's model of that name.

    Raises:
        OffloadError: no worker is configured, it cannot be reached, or it cannot load the model.
    """
    client = importlib.import_module(".remote_clip_vision", __package__)
    _, remote = loader.remote_module(made(ModelRef, {"name": clip_vision_calls.PREFIX + name}))
    loaded: RemoteClipVision = client.RemoteClipVision(remote)
    return loaded


def load_local_clip_vision(name: str) -> Any:
    """Return a CLIP_VISION from this machine's own folders, loaded by ComfyUI's own loader.

    Raises:
        OffloadError: there is no such file here, or it cannot be loaded.
    """
    files = importlib.import_module("..installation.clip_vision_files", __package__)
    try:
        return files.load_clip_vision(files.CLIP_VISIONS.find_file(name))
    except BackendError as error:
        raise OffloadError(str(error)) from error


@told_with_errors()
def load_remote_upscale_model(name: str) -> RemoteUpscaleModel:
    """Return an UPSCALE_MODEL for the configured worker's model of that name.

    Raises:
        OffloadError: no worker is configured, it cannot be reached, or it cannot load the model.
    """
    client = importlib.import_module(".remote_upscale_model", __package__)
    _, remote = loader.remote_module(made(ModelRef, {"name": upscale_calls.PREFIX + name}))
    eight_bit = checked_settings().pictures == "8-bit"
    loaded: RemoteUpscaleModel = client.RemoteUpscaleModel(remote, eight_bit=eight_bit)
    importlib.import_module(".whole_upscale", __package__).send_whole_pictures()
    return loaded


def load_local_upscale_model(name: str) -> Any:
    """Return an UPSCALE_MODEL from this machine's own folders, loaded by ComfyUI's own node.

    Raises:
        OffloadError: there is no such file here, or it cannot be loaded.
    """
    files = importlib.import_module("..installation.upscale_model_files", __package__)
    try:
        return files.load_upscale_model(files.UPSCALE_MODELS.find_file(name))
    except BackendError as error:
        raise OffloadError(str(error)) from error


@told_with_errors()
def load_remote_audio_encoder(name: str) -> RemoteAudioEncoder:
    """Return an AUDIO_ENCODER for the configured worker's model of that name.

    Raises:
        OffloadError: no worker is configured, it cannot be reached, or it cannot load the encoder.
    """
    client = importlib.import_module(".remote_audio_encoder", __package__)
    _, remote = loader.remote_module(made(ModelRef, {"name": audio_encoder_calls.PREFIX + name}))
    loaded: RemoteAudioEncoder = client.RemoteAudioEncoder(remote)
    return loaded


def load_local_audio_encoder(name: str) -> Any:
    """Return an AUDIO_ENCODER from this machine's own folders, loaded by ComfyUI's own node.

    Raises:
        OffloadError: there is no such file here, or it cannot be loaded.
    """
    files = importlib.import_module("..installation.audio_encoder_files", __package__)
    try:
        return files.load_audio_encoder(files.AUDIO_ENCODERS.find_file(name))
    except BackendError as error:
        raise OffloadError(str(error)) from error
