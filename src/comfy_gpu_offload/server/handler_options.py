"""A worker's limits, stores and lifetime, as its settings have them."""

from __future__ import annotations

from ..config.settings import Settings
from ..io.frame import FrameLimits
from .blob_folder import upload_folder
from .handler import HandlerOptions
from .lifetime import LifetimeLimits


def handler_options(settings: Settings) -> HandlerOptions:
    """Return the options of the handler by the settings."""
    return HandlerOptions(
        limits=FrameLimits(frame_bytes=settings.frame_bytes),
        store_bytes=settings.store_bytes,
        uploads=upload_folder(settings.upload_folder, settings.upload_bytes),
    )


def lifetime_limits(settings: Settings) -> LifetimeLimits:
    """Return when the worker leaves by itself, by the settings."""
    return LifetimeLimits(settings.idle_exit_minutes * 60, settings.at_most_minutes * 60)
