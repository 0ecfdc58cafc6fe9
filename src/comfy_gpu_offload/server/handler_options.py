"""A worker's limits, stores and lifetime, as its settings have them."""

from __future__ import annotations

from ..config.settings import Settings
from ..io.frame import FrameLimits
from .blob_folder import upload_folder
from .handler import HandlerOptions
from .lifetime import LifetimeLimits


def handler_options(settings: Settings, *, is_for_this_machine: bool = False) -> HandlerOptions:
    """Return the options of the handler by the settings.

    Args:
        is_for_this_machine: whether only programs on this machine reach the worker: then clients may bring model
            files unless the settings say otherwise.
    """
    allowed = {"on": True, "off": False, "auto": is_for_this_machine}
    return HandlerOptions(
        limits=FrameLimits(frame_bytes=settings.frame_bytes),
        store_bytes=settings.store_bytes,
        uploads=upload_folder(settings.upload_folder, settings.upload_bytes),
        takes_models=allowed[settings.model_downloads],
    )


def lifetime_limits(settings: Settings) -> LifetimeLimits:
    """Return when the worker leaves by itself, by the settings."""
    return LifetimeLimits(settings.idle_exit_minutes * 60, settings.at_most_minutes * 60)
