"""A worker's limits and stores, as its settings have them."""

from __future__ import annotations

from ..config.settings import Settings
from ..io.frame import FrameLimits
from .blob_folder import upload_folder
from .handler import HandlerOptions


def handler_options(settings: Settings) -> HandlerOptions:
    """Return the options of the handler by the settings."""
    return HandlerOptions(
        limits=FrameLimits(frame_bytes=settings.frame_bytes),
        store_bytes=settings.store_bytes,
        uploads=upload_folder(settings.upload_folder, settings.upload_bytes),
    )
