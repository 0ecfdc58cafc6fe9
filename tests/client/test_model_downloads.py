"""A session has its worker download a model, over lost connections and restarts of the worker."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from tests.support import model_hub
from tests.support.backend import FunctionBackend
from tests.support.folder_backend import FolderBackend
from tests.support.model_files import safetensors_file
from tests.support.model_hub import ModelHub
from tests.support.worker import ThreadWorker

from comfy_gpu_offload import Session, connect
from comfy_gpu_offload.client.model_downloads import FetchProgress
from comfy_gpu_offload.config.address import Address
from comfy_gpu_offload.errors import MessageError, ModelDownloadsOffError, WorkerFaultError
from comfy_gpu_offload.protocol.capabilities import CAPABILITIES, OF_MODEL_FILES
from comfy_gpu_offload.protocol.envelope import open_frame, seal
from comfy_gpu_offload.protocol.messages import Fault, FaultCode, expect
from comfy_gpu_offload.protocol.messages.model_downloads import DownloadModel
from comfy_gpu_offload.server.handler import Handler
from comfy_gpu_offload.server.model_downloads.allowed_hosts import AllowedHosts
from comfy_gpu_offload.server.model_downloads.downloads import DownloadOptions
from comfy_gpu_offload.server.model_downloads.remote_file import Sites

DATA = safetensors_file(3_000_000)
SHA256 = hashlib.sha256(DATA).hexdigest()
SOURCE = "hf:org/name/vae/x.safetensors"
PATIENCE_S = 60.0


@pytest.fixture
def hub() -> Iterator[ModelHub]:
    with ModelHub() as hub:
        hub.store(SOURCE.removeprefix("hf:"), DATA)
        yield hub


@pytest.fixture
def options(hub: ModelHub) -> DownloadOptions:
    site, storage = Address.parse(hub.url), Address.parse(hub.storage_url)
    return DownloadOptions(AllowedHosts((site, storage)), Sites(site, site))


@pytest.fixture
def worker(options: DownloadOptions, tmp_path: Path) -> Iterator[ThreadWorker]:
    with ThreadWorker(FolderBackend(tmp_path), takes_models=True, downloads=options) as made:
        yield made


@pytest.fixture
def session(worker: ThreadWorker) -> Iterator[Session]:
    with connect(worker.url, retry_s=60) as made:
        yield made


def test_a_model_comes_and_is_listed(session: Session, hub: ModelHub, tmp_path: Path) -> None:
    assert session.models() == ()
    found = session.fetch_model(SOURCE, hf_token=SecretStr("hf_secret"))
    assert (found.folder, found.name, found.size_bytes, found.sha256) == ("vae", "x.safetensors", len(DATA), SHA256)
    assert found.source == f"{SOURCE}@{model_hub.COMMIT}"
    assert (tmp_path / "vae/x.safetensors").read_bytes() == DATA
    assert [entry.name for entry in session.models()] == ["x.safetensors"]
    assert hub.asked[0].headers["authorization"] == "Bearer hf_secret"


def test_choices_reach_the_worker(session: Session, tmp_path: Path) -> None:
    session.fetch_model(SOURCE, folder="checkpoints", name="y.safetensors", sha256=SHA256.upper())
    assert (tmp_path / "checkpoints/y.safetensors").read_bytes() == DATA


@pytest.fixture
def held(hub: ModelHub) -> Iterator[threading.Event]:
    """Hold the transfer in the middle of the file until the event is set."""
    go_on = threading.Event()

    def hold(exchange: model_hub.Exchange) -> bool:
        exchange.begin(200, len(DATA))
        exchange.wfile.write(DATA[:2_000_000])
        go_on.wait(PATIENCE_S)
        exchange.wfile.write(DATA[2_000_000:])
        return True

    hub.faults.append(hold)
    yield go_on
    go_on.set()


def test_progress_is_told(session: Session, held: threading.Event) -> None:
    seen: list[FetchProgress] = []

    def show(progress: FetchProgress) -> None:
        seen.append(progress)
        if progress.received:
            held.set()

    session.fetch_model(SOURCE, on_progress=show)
    assert any(progress.received and progress.size_bytes == len(DATA) for progress in seen)


def test_a_wait_that_is_ended_stops_the_download_and_keeps_its_part(
    session: Session, hub: ModelHub, held: threading.Event, tmp_path: Path
) -> None:
    seen: list[FetchProgress] = []

    def interrupt() -> None:
        if any(progress.received > 1_000_000 for progress in seen):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        session.fetch_model(SOURCE, on_progress=seen.append, check=interrupt)
    held.set()
    session.fetch_model(SOURCE)
    assert (tmp_path / "vae/x.safetensors").read_bytes() == DATA
    assert any("range" in asked.headers for asked in hub.requests_to(hub.storage_url))


def test_a_worker_that_is_started_again_continues(
    options: DownloadOptions, held: threading.Event, hub: ModelHub, tmp_path: Path
) -> None:
    first = ThreadWorker(FolderBackend(tmp_path), takes_models=True, downloads=options)
    restarted: list[ThreadWorker] = []

    def restart(progress: FetchProgress) -> None:
        if progress.received > 1_000_000 and not restarted:
            first.stop()
            restarted.append(
                ThreadWorker(FolderBackend(tmp_path), takes_models=True, downloads=options, port=first.port)
            )
            restarted[0].__enter__()
            held.set()

    with first, connect(first.url, retry_s=60) as session:
        found = session.fetch_model(SOURCE, on_progress=restart)
    restarted[0].stop()
    assert found.sha256 == SHA256
    assert any("range" in asked.headers for asked in hub.requests_to(hub.storage_url))


def test_two_sessions_ask_for_one_download(worker: ThreadWorker, hub: ModelHub, held: threading.Event) -> None:
    seeing: set[int] = set()

    def fetch(number: int) -> None:
        def show(progress: FetchProgress) -> None:
            if progress.received:
                seeing.add(number)
            if len(seeing) == 2:
                held.set()

        with connect(worker.url) as other:
            other.fetch_model(SOURCE, on_progress=show)

    threads = [threading.Thread(target=fetch, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert held.is_set()
    assert len(hub.requests_to(hub.storage_url)) == 1


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("https://example.org/vae/x.safetensors", FaultCode.REFUSED_FILE),
        ("hf:org/name/vae/none.safetensors", FaultCode.DOWNLOAD_FAILED),
        ("nonsense", FaultCode.REFUSED_FILE),
    ],
)
def test_a_refusal_is_an_error_with_its_code(session: Session, source: str, code: FaultCode) -> None:
    with pytest.raises(WorkerFaultError) as refused:
        session.fetch_model(source)
    assert refused.value.code == code.value


def test_a_malformed_field_is_named_before_it_is_sent(session: Session) -> None:
    with pytest.raises(MessageError, match="sha256") as refused:
        session.fetch_model(SOURCE, sha256="12", hf_token=SecretStr("secret token"))
    assert "secret" not in str(refused.value)


def test_a_worker_takes_no_models_unless_its_operator_says_so() -> None:
    backend = FunctionBackend()
    with ThreadWorker(backend) as worker, connect(worker.url) as session:
        assert set(CAPABILITIES) - set(session.welcome.capabilities or ()) == OF_MODEL_FILES
        with pytest.raises(ModelDownloadsOffError, match="--allow-downloads"):
            session.fetch_model(SOURCE)
    asked = DownloadModel(request="r" * 8, client="c" * 8, source=SOURCE)
    reply = open_frame(bytearray(Handler(backend).handle(seal(asked).joined()).joined()))
    fault = expect(reply.message, Fault)
    assert fault.code is FaultCode.NOT_ALLOWED


def test_a_message_does_not_show_its_secrets() -> None:
    message = DownloadModel(
        request="r" * 8, client="c" * 8, source="https://x/?secret", hf_token="secret", civitai_token="secret"
    )
    assert "secret" not in f"{message!r} {message}"
