"""web/: a loader whose file the worker lacks offers to fetch it, by what the workflow says of its origin."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from tests.comfyui.harness.installation import Installation
from tests.support import model_hub
from tests.support.folder_backend import FolderBackend
from tests.support.model_files import safetensors_file
from tests.support.model_hub import ModelHub
from tests.support.worker import ThreadWorker

from comfy_gpu_offload.config.address import Address
from comfy_gpu_offload.server.model_downloads.allowed_hosts import AllowedHosts
from comfy_gpu_offload.server.model_downloads.downloads import DownloadOptions
from comfy_gpu_offload.server.model_downloads.remote_file import Sites

from .harness.screen import Screen
from .harness.workflows import saved_node, saved_workflow

pytestmark = [pytest.mark.comfyui, pytest.mark.shared_page]

ROUTE = "/comfy_gpu_offload/fetch"
NAME = "x.safetensors"
PATH = f"org/name/vae/{NAME}"
DATA = safetensors_file(3_000_000)
PATIENCE_S = 60.0


@pytest.fixture
def hub() -> Iterator[ModelHub]:
    with ModelHub() as hub:
        hub.store(PATH, DATA)
        yield hub


def taking(hub: ModelHub, folder: Path, *, takes_models: bool = True) -> ThreadWorker:
    site, storage = Address.parse(hub.url), Address.parse(hub.storage_url)
    options = DownloadOptions(AllowedHosts((site, storage)), Sites(site, site))
    return ThreadWorker(FolderBackend(folder), takes_models=takes_models, downloads=options)


@pytest.fixture
def worker(hub: ModelHub, installation: Installation, tmp_path: Path) -> Iterator[ThreadWorker]:
    with taking(hub, tmp_path) as made:
        installation.configure(COMFY_GPU_OFFLOAD_URL=made.url)
        yield made


def loader(hub: ModelHub, number: int = 1, *, own: bool = True, **changes: str) -> dict[str, Any]:
    """Return a loader that wants a file, and says where it comes from unless another node does."""
    node = saved_node("RemoteVAELoader", [True, NAME], number)
    if own:
        node["properties"]["models"] = [model(hub, **changes)]
    return node


def model(hub: ModelHub, **changes: str) -> dict[str, str]:
    return {
        "name": NAME,
        "url": f"{hub.url}/{PATH.replace('/vae', '/resolve/main/vae')}",
        "directory": "vae",
        **changes,
    }


def offer(hub: ModelHub) -> str:
    return f"Fetch {NAME} to the worker, from {hub.url.removeprefix('http://')}"


def wait_for(screen: Screen, text: str) -> None:
    screen.wait(lambda: text in screen.button(), text)


@pytest.fixture
def held(hub: ModelHub) -> Iterator[threading.Event]:
    """Hold the transfer in the middle of the file until the event is set."""
    go_on = threading.Event()

    def hold(exchange: model_hub.Exchange) -> bool:
        exchange.begin(200, len(DATA))
        exchange.wfile.write(DATA[:1_500_000])
        go_on.wait(PATIENCE_S)
        exchange.wfile.write(DATA[1_500_000:])
        return True

    hub.faults.append(hold)
    yield go_on
    go_on.set()


@pytest.mark.each_release
def test_a_click_fetches_it(
    hub: ModelHub, worker: ThreadWorker, screen: Screen, held: threading.Event, tmp_path: Path
) -> None:
    screen.open()
    screen.load(saved_workflow(loader(hub)))
    wait_for(screen, offer(hub))
    assert hub.asked == []  # no site is asked for anything before the click
    screen.picture("offered")
    screen.press_button()
    wait_for(screen, f"fetching {NAME} to the worker: 4")
    assert "/ 3.00 MB (click to stop)" in screen.button()
    screen.picture("fetching")
    held.set()
    wait_for(screen, "ask the worker for its list")
    assert (tmp_path / "vae" / NAME).read_bytes() == DATA
    assert screen.widgets(1)["vae_name"]["values"] == [NAME]
    assert screen.own_errors == []
    screen.picture("fetched")


def test_another_node_of_the_workflow_says_where_from(hub: ModelHub, worker: ThreadWorker, screen: Screen) -> None:
    stock = saved_node("VAELoader", ["other.safetensors"], 2)
    stock["properties"]["models"] = [model(hub)]
    screen.open()
    screen.load(saved_workflow(loader(hub, own=False), stock))
    wait_for(screen, offer(hub))


def test_a_second_click_stops_it_and_a_third_fetches_it(
    hub: ModelHub, worker: ThreadWorker, screen: Screen, held: threading.Event, tmp_path: Path
) -> None:
    screen.open()
    screen.load(saved_workflow(loader(hub)))
    wait_for(screen, offer(hub))
    screen.press_button()
    wait_for(screen, "/ 3.00 MB")
    screen.press_button()
    wait_for(screen, offer(hub))
    held.set()
    assert not (tmp_path / "vae" / NAME).exists()
    screen.press_button()
    wait_for(screen, "ask the worker for its list")
    assert (tmp_path / "vae" / NAME).read_bytes() == DATA


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"url": "https://evil.example.org/x.safetensors"}, "does not download from https://evil.example.org"),
        ({"directory": "loras"}, "no folder 'loras'"),
        ({"directory": "../vae"}, "The body must hold"),
        ({"hash": "0" * 64, "hash_type": "SHA256"}, "SHA-256"),
    ],
)
def test_a_refusal_is_on_the_node(
    hub: ModelHub, worker: ThreadWorker, screen: Screen, changes: dict[str, str], words: str, tmp_path: Path
) -> None:
    screen.open()
    screen.load(saved_workflow(loader(hub, **changes)))
    wait_for(screen, f"Fetch {NAME} to the worker")
    screen.press_button()
    wait_for(screen, f"{NAME} was not fetched: ")
    assert words in screen.button()
    assert screen.button().endswith("(retry)")
    assert not list(tmp_path.rglob(NAME))
    screen.picture("refused")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "javascript:alert(1)", "nonsense", ""])
def test_what_is_no_address_is_not_offered(hub: ModelHub, worker: ThreadWorker, screen: Screen, url: str) -> None:
    screen.open()
    screen.load(saved_workflow(loader(hub, url=url)))
    wait_for(screen, f"not in the worker's list: {NAME}")


def test_a_loader_of_this_machines_files_offers_nothing(
    hub: ModelHub, worker: ThreadWorker, screen: Screen
) -> None:
    screen.open()
    screen.load(saved_workflow(loader(hub)))
    wait_for(screen, offer(hub))
    screen.set(1, "use_runpod", False)
    assert screen.button() == "ask the worker for its list"


def test_a_worker_that_takes_no_models_is_not_asked_to(
    hub: ModelHub, installation: Installation, screen: Screen, tmp_path: Path
) -> None:
    with taking(hub, tmp_path, takes_models=False) as worker:
        installation.configure(COMFY_GPU_OFFLOAD_URL=worker.url)
        screen.open()
        screen.load(saved_workflow(loader(hub)))
        wait_for(screen, f"not in the worker's list: {NAME}")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"action": "delete"},
        {"url": "file:///etc/passwd"},
        {"url": "https://host/" + "a" * 3000},
        {"name": "../x.safetensors"},
        {"name": "a\nb.safetensors"},
        {"folder": "../vae"},
        {"sha256": "short"},
        {"token": "mine"},
        {"name": "a" * 20_000},
    ],
)
def test_a_body_that_is_none_of_the_pages(installation: Installation, body: dict[str, str]) -> None:
    sound = {"action": "begin", "url": "https://huggingface.co/a", "folder": "vae", "name": NAME}
    reply = requests.post(f"{installation.url}{ROUTE}", json={**sound, **body} if body else {}, timeout=60)
    assert reply.status_code == 400
    assert "action, url, folder and name" in reply.json()["error"]
