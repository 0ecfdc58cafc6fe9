"""A worker's limits, stores and lifetime, as its settings have them."""

from __future__ import annotations

from dataclasses import replace

from ..config.settings import CIVITAI, HUGGING_FACE, Settings
from ..io.frame import FrameLimits
from .blob_folder import upload_folder
from .handler import HandlerOptions
from .lifetime import LifetimeLimits
from .model_downloads.allowed_hosts import AllowedHosts
from .model_downloads.downloads import DownloadOptions
from .model_downloads.remote_file import Sites


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
        downloads=download_options(settings),
    )


def lifetime_limits(settings: Settings) -> LifetimeLimits:
    """Return when the worker leaves by itself, by the settings."""
    return LifetimeLimits(settings.idle_exit_minutes * 60, settings.at_most_minutes * 60)


def download_options(settings: Settings) -> DownloadOptions:
    """Return the options of downloads by the settings."""
    sites = Sites(settings.hf_endpoint, settings.civitai_endpoint)
    mirrors = [site for site in (sites.hugging_face, sites.civitai) if site not in {HUGGING_FACE, CIVITAI}]
    added = (*settings.download_hosts, *(replace(mirror, path="") for mirror in mirrors))
    return DownloadOptions(AllowedHosts(added), sites, settings.ca_file)
