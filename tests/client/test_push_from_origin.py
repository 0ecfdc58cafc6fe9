"""A file that is published somewhere is not sent: the worker fetches it from there, found by its hash."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support import model_hub
from tests.support.breaking_proxy import BreakingProxy
from tests.support.folder_backend import FolderBackend
from tests.support.model_files import safetensors_file
from tests.support.model_hub import ModelHub
from tests.support.worker import ThreadWorker

from comfy_gpu_offload import connect
from comfy_gpu_offload.config.address import Address
from comfy_gpu_offload.errors import WorkerFaultError
from comfy_gpu_offload.server.model_downloads.allowed_hosts import AllowedHosts
from comfy_gpu_offload.server.model_downloads.downloads import DownloadOptions
from comfy_gpu_offload.server.model_downloads.remote_file import Sites
from comfy_gpu_offload.server.model_store import disk_space

DATA = safetensors_file(3_000_000)


@pytest.fixture
def hub() -> Iterator[ModelHub]:
    with ModelHub() as hub:
        yield hub


@pytest.fixture
def proxy(hub: ModelHub, tmp_path: Path) -> Iterator[BreakingProxy]:
    """Stand before a worker that looks files up at the hub."""
    site, storage = Address.parse(hub.url), Address.parse(hub.storage_url)
    options = DownloadOptions(AllowedHosts((site, storage)), Sites(site, site))
    with ThreadWorker(FolderBackend(tmp_path / "models"), takes_models=True, downloads=options) as worker:
        yield BreakingProxy(worker.port)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "own.safetensors"
    made.write_bytes(DATA)
    return made


def test_a_published_file_is_fetched_and_not_sent(hub: ModelHub, proxy: BreakingProxy, file: Path) -> None:
    hub.publish(7, DATA)
    with connect(proxy.url) as session:
        found = session.push_model(file, "vae")
        (entry,) = session.models()
    assert (found.folder, found.name) == ("vae", "own.safetensors")
    assert found.source.startswith("civitai:")
    assert entry.source == found.source
    assert (file.parent / "models/vae/own.safetensors").read_bytes() == DATA
    assert proxy.up < 200_000


def test_it_is_sent_if_that_is_asked_for(hub: ModelHub, proxy: BreakingProxy, file: Path) -> None:
    hub.publish(7, DATA)
    with connect(proxy.url) as session:
        assert session.push_model(file, "vae", uploads=True).source == "push"
    assert hub.asked == []
    assert proxy.up > len(DATA)


@pytest.mark.parametrize("wrong", ["nowhere", "fails", "gated"])
def test_it_is_sent_if_the_worker_cannot_fetch_it(
    wrong: str, hub: ModelHub, proxy: BreakingProxy, file: Path
) -> None:
    if wrong != "nowhere":
        hub.publish(7, DATA)
    if wrong == "gated":
        hub.gate_token = "another"
    if wrong == "fails":
        hub.faults.append(model_hub.status(403))
    with connect(proxy.url) as session:
        assert session.push_model(file, "vae").source == "push"
    assert (file.parent / "models/vae/own.safetensors").read_bytes() == DATA


def test_it_is_sent_if_the_worker_reaches_no_site(hub: ModelHub, proxy: BreakingProxy, file: Path) -> None:
    hub.publish(7, DATA)
    hub.site_faults.extend([model_hub.status(503)] * 1000)
    with connect(proxy.url) as session:
        assert session.push_model(file, "vae").source == "push"


def test_a_full_disk_is_an_error_at_once(
    hub: ModelHub, proxy: BreakingProxy, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.publish(7, DATA)
    monkeypatch.setattr(disk_space, "MARGIN_BYTES", 1 << 60)
    with connect(proxy.url) as session, pytest.raises(WorkerFaultError, match="no room"):
        session.push_model(file, "vae")
    assert proxy.up < 200_000
