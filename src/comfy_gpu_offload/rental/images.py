"""The container's image: the project's own if it is published and fits, else a stock one that installs the pack."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import requests

from ..errors import ConfigError
from ..version import __version__
from .start_script import StartOptions, start_args

_REGISTRY = "https://ghcr.io"
_NAME = "comfy-gpu-offload/comfy-gpu-offload"
IMAGE_COMFYUI = "0.33.0"
"""The release of ComfyUI in the project's image."""
STOCK_IMAGE = "runpod/pytorch:1.0.3-cu1281-torch291-ubuntu2404"
_TIMEOUT_S = 5.0
_IMAGE = re.compile(r"[a-z0-9][a-z0-9._:@/-]{1,254}")
_FORMS = ", ".join(
    f"application/vnd.{form}+json"
    for form in ("oci.image.index.v1", "oci.image.manifest.v1", "docker.distribution.manifest.v2")
)


@dataclass(frozen=True)
class Image:
    """An image, what replaces its command, and a word on it for the user.

    Attributes:
        args: empty for the image's own command.
        installs: whether its first start installs the pack and ComfyUI, which takes minutes.
    """

    name: str
    args: str
    about: str
    installs: bool = False


def chosen_image(named: str | None, comfyui: str | None, pack_source: str | None, ca_file: Path | None) -> Image:
    """Return the image to rent with.

    Args:
        named: by the user; ``stock`` for the stock image.
        comfyui: the release of ComfyUI on this side, which the worker's should equal; None if there is none.
        pack_source: as `StartOptions.pack_source`.
        ca_file: certificates to trust besides.

    Raises:
        ConfigError: the name is no image's, or the start script cannot be made.
    """
    if named is not None and named != "stock":
        if not _IMAGE.fullmatch(named):
            raise ConfigError(f"--image {named:.100}: write NAME:TAG as for docker pull, or stock.")
        return Image(named, "", "your own image")
    wanted = comfyui or IMAGE_COMFYUI
    if named is None and pack_source is None and wanted == IMAGE_COMFYUI and is_published(ca_file):
        return Image(published_name(), "", "the project's image")
    args = start_args(StartOptions(__version__, wanted, image_is_ours=False, pack_source=pack_source))
    about = f"a stock image that installs the pack and ComfyUI {wanted}, which takes some minutes"
    return Image(STOCK_IMAGE, args, about, installs=True)


def published_name() -> str:
    """Return the name of the project's image of this release."""
    return f"{_REGISTRY.partition('://')[2]}/{_NAME}:{__version__}"


def is_published(ca_file: Path | None) -> bool:
    """Return whether the registry has the project's image of this release; False where it cannot be asked."""
    verify: bool | str = True if ca_file is None else str(ca_file)
    try:
        scope = {"scope": f"repository:{_NAME}:pull", "service": "ghcr.io"}
        pass_ = requests.get(f"{_REGISTRY}/token", params=scope, timeout=_TIMEOUT_S, verify=verify)
        headers = {"Authorization": f"Bearer {pass_.json()['token']}", "Accept": _FORMS}
        where = f"{_REGISTRY}/v2/{_NAME}/manifests/{__version__}"
        return requests.head(where, headers=headers, timeout=_TIMEOUT_S, verify=verify).status_code == 200
    except (requests.RequestException, ValueError, KeyError, TypeError):
        return False
