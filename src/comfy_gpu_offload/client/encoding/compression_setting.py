"""The setting `compression`: the codec that it names, and how a session begins that chooses by itself."""

from __future__ import annotations

import logging

from ...config.endpoint import Direct, Serverless
from ...config.settings import Settings
from ...io import codecs
from .step_time import EncodingKind

logger = logging.getLogger(__name__)


def codec_of(settings: Settings) -> codecs.Codec | codecs.Chooser:
    """Return the codec that the settings name, with a warning in the log if it is lossy."""
    if settings.compression == "none":
        return codecs.RAW
    codec = codecs.wanted(settings.compression)
    if not codec.lossless:
        logger.warning(
            "COMFY_GPU_OFFLOAD_COMPRESSION=%s is lossy: pictures will differ from local ones.", settings.compression
        )
    return codec


def first_kind(settings: Settings, target: Direct | Serverless) -> EncodingKind | None:
    """Return the encoding to begin with in a session that chooses by itself, or None where the setting decides.

    Without a network in between, coding costs more than it saves. Calls to a serverless worker wait for other
    things than the link, which a measurement of the link would mistake for it.
    """
    if settings.compression != "auto" or not isinstance(target, Direct):
        return None
    local = target.address.is_loopback
    return EncodingKind.RAW if local else EncodingKind.PREDICTED
