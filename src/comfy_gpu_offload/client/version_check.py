"""Comparison of the two sides' releases: a warning if pictures may differ, an error if nothing would work."""

from __future__ import annotations

import logging

import torch

from ..errors import UnsupportedCodecError
from ..io import codecs
from ..protocol.capabilities import lacking
from ..protocol.messages import Welcome
from ..version import __version__

logger = logging.getLogger(__name__)


def warn_of_skew(welcome: Welcome, comfyui: str | None) -> None:
    """Log a warning for each part whose release differs between here and the worker."""
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
    missing = lacking(welcome)
    if missing:
        logger.warning(
            "The worker's comfy-gpu-offload (%s) lacks capabilities that this side (%s) has: %s. Update it there.",
            welcome.package,
            __version__,
            ", ".join(missing),
        )


def refuse_unknown_codec(welcome: Welcome, codec: codecs.Codec | codecs.Chooser) -> None:
    """Refuse a codec that the worker cannot read or cannot reply with.

    Raises:
        UnsupportedCodecError: the worker lacks it, or a codec that it uses.
    """
    unknown = tuple(name for name in codecs.used_by(codec) if name not in welcome.codecs)
    if unknown:
        known = [name for name in codecs.names() if set(codecs.used_by(codecs.named(name))) <= set(welcome.codecs)]
        others = tuple(name for name in known if name != codecs.RAW.name)
        raise UnsupportedCodecError(unknown, welcome.package, ("none", *others))


def _release(version: str) -> str:
    """Return a version without its build: ``2.13.0+cpu`` and ``2.13.0+cu130`` are one release."""
    return version.split("+", 1)[0]
