"""From a model's name to a MODEL: at the configured worker, or on this machine."""

from __future__ import annotations

import importlib
import threading
from typing import Any

import comfy.model_management

from ..client.connect import connect_from
from ..client.session import Session
from ..config.settings import Settings, load_settings
from ..errors import OffloadError
from ..protocol.messages import ModelEntry
from ..server.backends.base import BackendError
from ..server.backends.comfyui_control_data import FOLDER, PREFIX
from ..transport.base import Check
from . import release, status
from .control_net import RemoteControlNet
from .patcher import RemoteModelPatcher, remote_patcher

_lock = threading.Lock()
_sessions: dict[Settings, Session] = {}


def load_remote(name: str, weight_dtype: str) -> RemoteModelPatcher:
    """The configured worker's model of that name.

    Raises:
        OffloadError: no worker is configured, it cannot be reached, or it cannot load the model.
    """
    check = comfy.model_management.throw_exception_if_processing_interrupted
    session = _session(load_settings(), check)
    return remote_patcher(session.model(name, weight_dtype, check=check), session.welcome.comfyui)


def load_remote_control_net(name: str) -> RemoteControlNet:
    """The configured worker's control net of that name.

    Raises:
        OffloadError: no worker is configured, it cannot be reached, or it cannot load the control net.
    """
    check = comfy.model_management.throw_exception_if_processing_interrupted
    return RemoteControlNet(_session(load_settings(), check).model(PREFIX + name, check=check))


def load_local_control_net(name: str) -> Any:
    """The file of that name from this machine's own folders, loaded by ComfyUI's own loader.

    Raises:
        OffloadError: it is not here, or cannot be loaded.
    """
    nets = importlib.import_module("..server.backends.comfyui_control_nets", __package__)
    try:
        return nets.load_control_net(nets.find_control_net(name))
    except BackendError as error:
        raise OffloadError(str(error)) from error


def load_local(name: str, weight_dtype: str) -> Any:
    """The same file from this machine's own model folders, loaded by ComfyUI's own loaders.

    Raises:
        OffloadError: it is not here, or cannot be loaded.
    """
    models = importlib.import_module("..server.backends.comfyui_models", __package__)
    try:
        return models.load_patcher(models.find_model(name), weight_dtype)
    except BackendError as error:
        raise OffloadError(str(error)) from error


def remote_models() -> tuple[ModelEntry, ...]:
    """The models that the configured worker can load, asked anew.

    Raises:
        OffloadError: no worker is configured, or it cannot be reached.
    """
    return tuple(entry for entry in _session(load_settings()).models() if entry.folder != FOLDER)


def remote_control_nets() -> tuple[ModelEntry, ...]:
    """The control nets that the configured worker can load, asked anew.

    Raises:
        OffloadError: no worker is configured, or it cannot be reached.
    """
    return tuple(entry for entry in _session(load_settings()).models() if entry.folder == FOLDER)


def local_models() -> list[str]:
    """The names of what this machine's own folders hold."""
    models = importlib.import_module("..server.backends.comfyui_models", __package__)
    return [file.name for file in models.find_models()]


def local_control_nets() -> list[str]:
    """The names of the control nets in this machine's own folders."""
    nets = importlib.import_module("..server.backends.comfyui_control_nets", __package__)
    return [file.name for file in nets.find_control_nets()]


def _session(settings: Settings, check: Check | None = None) -> Session:
    """One session for the same settings, so that what a worker holds stays known from run to run."""
    with _lock:
        if settings not in _sessions:
            _sessions[settings] = connect_from(settings, release.here(), status.announce, check)
        return _sessions[settings]
