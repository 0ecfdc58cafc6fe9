"""A hub, and downloads that may use it, with short waits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.folder_backend import FolderBackend
from tests.support.model_hub import ModelHub

from comfy_gpu_offload.config.address import Address
from comfy_gpu_offload.server.lifetime import Activity
from comfy_gpu_offload.server.model_downloads import transfer
from comfy_gpu_offload.server.model_downloads.allowed_hosts import AllowedHosts
from comfy_gpu_offload.server.model_downloads.downloads import DownloadOptions, Downloads
from comfy_gpu_offload.server.model_downloads.remote_file import Sites


@pytest.fixture
def hub() -> Iterator[ModelHub]:
    with ModelHub() as hub:
        yield hub


@pytest.fixture
def backend(tmp_path: Path) -> FolderBackend:
    return FolderBackend(tmp_path / "models")


def options_for(hub: ModelHub, *more: str) -> DownloadOptions:
    site = Address.parse(hub.url)
    hosts = tuple(Address.parse(text) for text in (hub.url, hub.storage_url, *more))
    return DownloadOptions(AllowedHosts(hosts), Sites(site, site))


@pytest.fixture
def activity() -> Activity:
    return Activity()


@pytest.fixture
def downloads(
    hub: ModelHub, backend: FolderBackend, activity: Activity, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Downloads]:
    monkeypatch.setattr(transfer, "_FIRST_S", 0.001)
    made = Downloads(options_for(hub), backend.model_folders, activity)
    yield made
    made.close()
