"""Functions of the loader nodes: load a model or a ControlNet by its name, at the worker or on this machine."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.sd
import folder_paths

from ...backends.base import BackendError
from ...client.remote_model import RemoteModel
from ...client.session import Session
from ...config.findings import checked_settings, told_with_errors
from ...config.settings import load_settings
from ...errors import OffloadError, UnknownModelError
from ...protocol.messages import ModelRef, made
from ...transport.base import Check
from ..installation.folder_names import CHECKPOINT_FOLDER
from ..wire import vae_calls
from ..wire.control_data import PREFIX
from ..wire.text_encoder_calls import CHECKPOINT_PREFIX as CHECKPOINT_CLIP
from ..wire.text_encoder_calls import CPU, DEVICE, TYPE
from ..wire.text_encoder_calls import PREFIX as ENCODER_PREFIX
from . import loader_epoch
from .file_data_cache import FileDataCache
from .model_list_cache import KeptLists
from .model_lists import Lists, WorkerLists
from .patcher import RemoteModelPatcher, remote_patcher
from .remote_control_net import RemoteControlNet
from .remote_vae import RemoteVae
from .worker_sessions import Sessions


def _lists_here() -> Lists:
    files: Lists = importlib.import_module(".lists_here", __package__).lists_here()
    return files


logger = logging.getLogger(__name__)

_sessions = Sessions()
# Next to the folders of ComfyUI's users. No user can have such a name, and no route serves files from it.
_KEPT = Path(folder_paths.get_user_directory()) / "__comfy_gpu_offload"
lists = WorkerLists(_sessions, KeptLists(_KEPT / "lists.json"), _lists_here)
_file_data = FileDataCache(_KEPT / "tokenizers")


def version(use_runpod: bool | None = True) -> float:
    """Return a loader node's `fingerprint_inputs`: a number that differs once the node has to run again.

    It differs after a worker's model has changed, and after the settings have named another worker; the session
    with the earlier worker is closed. With wrong settings it is NaN, which differs from itself: the loader runs and
    reports what is wrong.

    Args:
        use_runpod: the node's switch. Off (False), nothing depends on the worker. None, from a link, counts as on.
    """
    if use_runpod is False:
        return 0
    try:
        if _sessions.follow(load_settings()):
            loader_epoch.advance()
    except OffloadError:
        return float("nan")
    return loader_epoch.current()


@told_with_errors()
def load_remote(name: str, weight_dtype: str) -> RemoteModelPatcher:
    """Return a MODEL for the configured worker's model of that name.

    Args:
        weight_dtype: a choice of ComfyUI's Load Diffusion Model, e.g. ``default`` or ``fp8_e4m3fn``.

    Raises:
        OffloadError: no worker is configured, it cannot be reached, or it cannot load the model.
    """
    session, remote = _loaded(name, weight_dtype)
    return remote_patcher(remote, session.welcome.comfyui)


@told_with_errors()
def load_remote_control_net(name: str) -> RemoteControlNet:
    """Return a CONTROL_NET for the configured worker's ControlNet of that name.

    Raises:
        OffloadError: no worker is configured, it cannot be reached, or it cannot load the ControlNet.
    """
    _, remote = _loaded(PREFIX + name)
    return RemoteControlNet(remote)


@told_with_errors()
def load_remote_clip(names: Sequence[str], choice: str, device: str) -> Any:
    """Return a CLIP for the configured worker's text encoder of these files.

    Args:
        choice: of a type, as ComfyUI's loaders have them.
        device: ``default`` or ``cpu``, for the worker.

    Raises:
        OffloadError: no worker is configured, it cannot be reached, or it cannot load the text encoder.
    """
    encoders = importlib.import_module("..installation.text_encoder_files", __package__)
    client = importlib.import_module(".text_encoder", __package__)
    options = [(TYPE, encoders.clip_type_name(choice)), *([(DEVICE, CPU)] if device == CPU else [])]
    first, *further = names
    fields = {"name": ENCODER_PREFIX + first, "files": tuple(further), "options": tuple(options)}
    _, remote = remote_module(made(ModelRef, fields))
    return client.remote_clip(remote, _file_data)


@told_with_errors()
def load_remote_vae(name: str) -> RemoteVae:
    """Return a VAE for the configured worker's VAE of that name.

    Raises:
        OffloadError: no worker is configured, it cannot be reached, or it cannot load the VAE.
    """
    _, remote = remote_module(made(ModelRef, {"name": vae_calls.PREFIX + name}))
    return RemoteVae(remote, eight_bit=checked_settings().pictures == "8-bit")


@told_with_errors()
def load_remote_checkpoint(name: str) -> tuple[RemoteModelPatcher, Any, Any]:
    """Return MODEL, CLIP and VAE for the configured worker's checkpoint of that name.

    As with ComfyUI's own loader, the CLIP is None if the file has none, and a VAE that it lacks fails in use.

    Raises:
        OffloadError: no worker is configured, it cannot be reached, or it cannot load the checkpoint.
    """
    client = importlib.import_module(".text_encoder", __package__)
    model = load_remote(f"{CHECKPOINT_FOLDER}/{name}", "default")
    clip = _part_of_checkpoint(CHECKPOINT_CLIP + name)
    vae = _part_of_checkpoint(vae_calls.CHECKPOINT_PREFIX + name)
    return (
        model,
        None if clip is None else client.remote_clip(clip, _file_data),
        comfy.sd.VAE(sd={}) if vae is None else RemoteVae(vae, eight_bit=checked_settings().pictures == "8-bit"),
    )


def _part_of_checkpoint(name: str) -> RemoteModel | None:
    """Return a part of a checkpoint, whose model the worker has loaded; None if the file lacks the part."""
    try:
        return remote_module(made(ModelRef, {"name": name}))[1]
    except UnknownModelError:
        return None


def _loaded(name: str, weight_dtype: str = "default") -> tuple[Session, RemoteModel]:
    ref = made(ModelRef, {"name": name, "weight_dtype": weight_dtype})
    return _opened(ref, lambda session, check: session.model(name, weight_dtype, check=check))


def remote_module(ref: ModelRef) -> tuple[Session, RemoteModel]:
    """Return the worker's module of that reference, and the session that it was loaded in.

    Raises:
        OffloadError: no worker is configured, it cannot be reached, or it cannot load the module.
    """
    return _opened(ref, lambda session, check: session.module(ref, check=check))


def _opened(ref: ModelRef, load: Callable[[Session, Check], RemoteModel]) -> tuple[Session, RemoteModel]:
    check = comfy.model_management.throw_exception_if_processing_interrupted
    settings = checked_settings()
    session = _sessions.opened(settings, check, await_worker=True, loading=ref)
    try:
        remote = load(session, check)
    finally:
        lists.keep(settings, session.welcome.models)
    _log_warnings(remote)
    return session, remote


def warned(remote: RemoteModel) -> str:
    """Return the first warning of the worker's ComfyUI as it loaded a model, as a suffix of a node's line.

    It is empty if there was none.
    """
    warnings = remote.description.warnings
    return f". ComfyUI warned there: {warnings[0]}" if warnings else ""


def _log_warnings(remote: RemoteModel) -> None:
    for text in remote.description.warnings:
        logger.warning("The worker's ComfyUI warned as it loaded %s: %s", remote.description.ref.name, text)


def load_local_control_net(name: str) -> Any:
    """Return a CONTROL_NET from this machine's own folders, loaded by ComfyUI's own loader.

    Raises:
        OffloadError: there is no such file here, or it cannot be loaded.
    """
    nets = importlib.import_module("..installation.control_net_files", __package__)
    try:
        return nets.load_control_net(nets.CONTROL_NETS.find_file(name))
    except BackendError as error:
        raise OffloadError(str(error)) from error


def load_local_clip(names: Sequence[str], choice: str, device: str) -> Any:
    """Return a CLIP from this machine's own folders, loaded by ComfyUI's own loader; see `load_remote_clip`.

    Raises:
        OffloadError: there is no such file here, or it cannot be loaded.
    """
    encoders = importlib.import_module("..installation.text_encoder_files", __package__)
    try:
        return encoders.load_clip(
            [encoders.TEXT_ENCODERS.find_file(name) for name in names],
            encoders.clip_type_name(choice),
            on_cpu=device == CPU,
            embeddings=folder_paths.get_folder_paths("embeddings"),
        )
    except BackendError as error:
        raise OffloadError(str(error)) from error


def load_local_vae(name: str) -> Any:
    """Return a VAE from this machine's own folders, loaded by ComfyUI's own loader.

    Raises:
        OffloadError: there is no such file here, or it cannot be loaded.
    """
    vaes = importlib.import_module("..installation.vae_files", __package__)
    try:
        return vaes.load_vae(vaes.VAES.files_of(name)).vae
    except BackendError as error:
        raise OffloadError(str(error)) from error


def load_local_checkpoint(name: str) -> tuple[Any, Any, Any]:
    """Return MODEL, CLIP and VAE of a checkpoint on this machine, loaded by ComfyUI's own loader.

    Raises:
        OffloadError: there is no such file here, or it cannot be loaded.
    """
    checkpoints = importlib.import_module("..installation.checkpoint_files", __package__)
    try:
        file = checkpoints.CHECKPOINTS.find_file(name)
        loaded: tuple[Any, Any, Any] = checkpoints.load_checkpoint(
            file, folder_paths.get_folder_paths("embeddings")
        )
        return loaded
    except BackendError as error:
        raise OffloadError(str(error)) from error


def load_local(name: str, weight_dtype: str) -> Any:
    """Return a MODEL from this machine's own model folders, loaded by ComfyUI's own loaders.

    Raises:
        OffloadError: there is no such file here, or it cannot be loaded.
    """
    models = importlib.import_module("..installation.diffusion_model_files", __package__)
    try:
        return models.load_patcher(models.DIFFUSION_MODELS.find_file(name), weight_dtype)
    except BackendError as error:
        raise OffloadError(str(error)) from error
