"""Differences between the two sides that may show in a picture: said once, never silent."""

from __future__ import annotations

import logging

import torch

from ..protocol.messages import Welcome
from ..version import __version__

logger = logging.getLogger(__name__)


def warn_of_skew(welcome: Welcome, comfyui: str | None) -> None:
    """Logs a warning for each part whose release differs between here and the worker."""
    ours = {"comfy-gpu-offload": __version__, "torch": torch.__version__, "ComfyUI": comfyui}
    theirs = {"comfy-gpu-offload": welcome.package, "torch": welcome.torch, "ComfyUI": welcome.comfyui}
    for part, here in ours.items():
        there = theirs[part]
        if here is not None and there is not None and _release(here) != _release(there):
            logger.warning(
                "%s is %s here and %s at the worker; pictures may differ slightly from local ones",
                part,
                here,
                there,
            )


def _release(version: str) -> str:
    """Without the build: ``2.13.0+cpu`` and ``2.13.0+cu130`` are one release."""
    return version.split("+", 1)[0]
