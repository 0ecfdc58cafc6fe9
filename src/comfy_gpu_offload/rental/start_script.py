"""The command of a rented GPU's container: `start.sh`, with a pod's own values in front, as one argument.

The script installs the worker where the image does not hold it, runs it, and deletes the pod when it has left.
"""

from __future__ import annotations

import base64
import gzip
import re
import shlex
from dataclasses import dataclass
from importlib.resources import files
from typing import Literal
from urllib.parse import urlsplit

from ..config.address import HTTP, HTTPS, Address
from ..errors import ConfigError

REPOSITORY = "https://github.com/comfy-gpu-offload/comfy-gpu-offload"
COMFYUI_REPOSITORY = "https://github.com/Comfy-Org/ComfyUI"
PACKAGE = "comfy-gpu-offload"

# RunPod does not say how long a pod's `args` may be; Linux takes 128 KiB in one argument of a command.
_ARGS_BYTES = 16 * 1024
_RELEASE = re.compile(r"\d+(\.\d+){1,3}((a|b|rc|\.dev|\.post)\d+)?")
_SOURCE_SCHEMES = {"https", "file", "git+https", "git+file"}
_OPTION = re.compile(r"[A-Za-z0-9_./:=@,+-]+")
_FOLDER = re.compile(r"/[A-Za-z0-9_./-]*")


@dataclass(frozen=True)
class StartOptions:
    """The values of one pod's start script. None of them is a secret: those come in the pod's environment.

    Attributes:
        pack_version: this package's release, which the worker has to have as well.
        comfyui_version: the client's ComfyUI, such as 0.33.0; None for the diffusers backend.
        image_is_ours: whether the image holds pack and ComfyUI already (the project's own, or one made from it).
        pack_source: the address that pip takes the pack from (``https://….whl``, ``git+https://…@v0.1.0``); None
            for the package index, and where that does not have the release, its tag in the project's repository.
        comfyui_repository: to clone ComfyUI from.
        backend: of a worker that is installed; an image of ours has it in COMFY_GPU_OFFLOAD_BACKEND.
        worker_options: further options of the command `worker`, where it is installed.
        port: on which the worker listens, where it is installed; an image of ours has it in PORT.
        folder: for what is installed; None for one in the home folder.
        volume: at which a network volume is mounted, if there is one: its ``models`` holds the models.
        install_s: seconds for each step of the installation.
        crashes: number of crashes in a row after which the pod is deleted.
        pause_s: seconds until a crashed worker is started again.
        grace_s: seconds past the hard limit after which the worker is killed.
        kill_s: seconds from SIGTERM to SIGKILL for what takes too long.
        gone_s: seconds within which an accepted deletion ends the container, before another way is tried.
        again_s: seconds until all ways to delete the pod are tried again.
        api, graphql: the addresses of RunPod's APIs.
    """

    pack_version: str
    comfyui_version: str | None
    image_is_ours: bool
    pack_source: str | None = None
    comfyui_repository: str = COMFYUI_REPOSITORY
    backend: Literal["comfyui", "diffusers"] = "comfyui"
    worker_options: tuple[str, ...] = ()
    port: int = 8288
    folder: str | None = None
    volume: str = "/workspace"
    install_s: int = 3600
    crashes: int = 3
    pause_s: int = 5
    grace_s: int = 660
    kill_s: int = 30
    gone_s: int = 60
    again_s: int = 300
    api: str = "https://api.runpod.io/v2"
    graphql: str = "https://api.runpod.io/graphql"


def start_args(options: StartOptions) -> str:
    """Return a pod's `args`: a command whose one argument decodes the script to a file and runs it.

    Base64 has no character that any shell or parser of arguments reads in a way of its own.

    Raises:
        ConfigError: a value cannot stand in a script, or the whole is too long.
    """
    script = base64.b64encode(gzip.compress(start_script(options).encode(), mtime=0)).decode("ascii")
    args = f"sh -c 'echo {script} | base64 -d | gunzip >/tmp/start.sh && exec sh /tmp/start.sh'"
    if len(args) > _ARGS_BYTES:
        raise ConfigError(
            f"The pod's start script takes {len(args)} bytes, over the {_ARGS_BYTES} that a command may have: use "
            "a shorter source of the pack or fewer options of the worker."
        )
    return args


def start_script(options: StartOptions) -> str:
    """Return the script itself.

    Raises:
        ConfigError: a value cannot stand in a script.
    """
    lines = [f"START_{name}={shlex.quote(value)}" for name, value in _values(options).items()]
    text = (files(__package__) / "start.sh").read_text("utf-8")
    return "\n".join(["#!/bin/sh", *lines, text])


def _values(options: StartOptions) -> dict[str, str]:
    values = {
        "INSTALL": "no" if options.image_is_ours else "yes",
        "PORT": str(options.port),
        "VOLUME": _checked("the volume's folder", options.volume, _FOLDER),
        "INSTALL_S": str(options.install_s),
        "CRASHES": str(options.crashes),
        "PAUSE_S": str(options.pause_s),
        "GRACE_S": str(options.grace_s),
        "KILL_S": str(options.kill_s),
        "GONE_S": str(options.gone_s),
        "AGAIN_S": str(options.again_s),
        "API": _checked_api(options.api),
        "GRAPHQL": _checked_api(options.graphql),
    }
    if options.folder is not None:
        values["FOLDER"] = _checked("the folder to install in", options.folder, _FOLDER)
    return values if options.image_is_ours else {**values, **_to_install(options)}


def _to_install(options: StartOptions) -> dict[str, str]:
    extra = "[worker]" if options.backend == "diffusers" else ""  # what the extra holds, ComfyUI brings
    version = _checked("the pack's release", options.pack_version, _RELEASE)
    if options.pack_source is None:
        pack, otherwise = f"{PACKAGE}{extra}=={version}", f"{PACKAGE}{extra} @ git+{REPOSITORY}@v{version}"
    else:
        source = _checked_address("the pack's source", options.pack_source, _SOURCE_SCHEMES)
        pack, otherwise = f"{PACKAGE}{extra} @ {source}", ""
    values = {
        "BACKEND": options.backend,
        "PACK": pack,
        "PACK_ELSE": otherwise,
        "WORKER_OPTIONS": " ".join(_checked("a worker's option", each, _OPTION) for each in options.worker_options),
    }
    if options.backend == "comfyui":
        values["COMFYUI"] = _checked("ComfyUI's release", options.comfyui_version or "", _RELEASE)
        values["COMFYUI_REPOSITORY"] = _checked_address(
            "ComfyUI's repository", options.comfyui_repository, {"https", "file"}
        )
    return values


def _checked(what: str, value: str, form: re.Pattern[str]) -> str:
    if not form.fullmatch(value):
        raise ConfigError(f"A pod cannot be started: {what} is {value!r}, which has not the form of one.")
    return value


def _checked_address(what: str, value: str, schemes: set[str]) -> str:
    """Return the address.

    Raises:
        ConfigError: it is of another scheme, or holds a password, which the pod's script and log would show.
    """
    parts = urlsplit(value)
    if parts.scheme not in schemes or not value.isprintable() or " " in value:
        raise ConfigError(f"A pod cannot be started: {what} is no address that begins with {', '.join(schemes)}.")
    if parts.password is not None or parts.username is not None:
        raise ConfigError(
            f"A pod cannot be started: {what} holds a user or a password, which its log would show. Use an address "
            "that needs none."
        )
    return value


def _checked_api(text: str) -> str:
    """Return the address of an API, to which a key is sent: https, or http on the machine itself."""
    try:
        address = Address.parse(text)
        if address.scheme not in {HTTP, HTTPS}:
            raise ValueError("it begins with https://")
    except ValueError as error:
        raise ConfigError(f"A pod cannot be started: the address of RunPod's API is wrong: {error}") from None
    return str(address)
