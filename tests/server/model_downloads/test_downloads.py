"""Models come from the hub whole, or not at all; whatever goes wrong there ends in one of the two."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from pydantic import SecretStr
from tests.server.model_downloads.conftest import options_for
from tests.support import model_hub
from tests.support.folder_backend import FolderBackend
from tests.support.model_files import PAGE, PICKLE, gguf_file, safetensors_file
from tests.support.model_hub import COMMIT, Exchange, ModelHub

from comfy_gpu_offload.server.faults import RefusedError, fault_of
from comfy_gpu_offload.server.lifetime import Activity
from comfy_gpu_offload.server.model_downloads import transfer
from comfy_gpu_offload.server.model_downloads.downloads import Download, Downloads, DownloadState, Wanted
from comfy_gpu_offload.server.model_downloads.errors import (
    DownloadFailedError,
    DownloadStoppedError,
    RefusedSourceError,
)
from comfy_gpu_offload.server.model_downloads.remote_file import OriginTokens
from comfy_gpu_offload.server.model_store import incoming_file
from comfy_gpu_offload.server.model_store.incoming_file import IncomingFile
from comfy_gpu_offload.server.model_store.placement import Place
from comfy_gpu_offload.server.model_store.provenance import origin_of
from comfy_gpu_offload.server.model_store.refusals import DiskFullError, ModelStoreError, RefusedFileError

DATA = safetensors_file(300_000)
SHA256 = hashlib.sha256(DATA).hexdigest()
SOURCE = "hf:org/name/split_files/diffusion_models/model.safetensors"
PATH = SOURCE.removeprefix("hf:")
TOKENS = OriginTokens(SecretStr("hf_secret"), SecretStr("civitai_secret"))
CLIENT = "c" * 8
PATIENCE_S = 60.0


def fetch(downloads: Downloads, source: str = SOURCE, tokens: OriginTokens = TOKENS, **more: str) -> DownloadState:
    return ended(downloads.begin(Wanted(source, **more), tokens))


def ended(job: Download) -> DownloadState:
    state = job.state(CLIENT, PATIENCE_S)
    assert job.is_over
    return state


def files(backend: FolderBackend) -> dict[str, bytes]:
    found = [path for path in backend.root.rglob("*") if path.is_file() and path.suffix != ".json"]
    return {path.relative_to(backend.root).as_posix(): path.read_bytes() for path in found}


def test_a_file_comes_from_hugging_face(hub: ModelHub, backend: FolderBackend, downloads: Downloads) -> None:
    hub.store(PATH, DATA)
    hub.gate_token = "hf_secret"
    state = fetch(downloads)
    assert state.origin is not None
    assert state.origin.source == f"{SOURCE}@{COMMIT}"
    assert (state.origin.sha256, state.received, state.size_bytes) == (SHA256, len(DATA), len(DATA))
    assert files(backend) == {"diffusion_models/model.safetensors": DATA}
    assert [entry.name for entry in backend.listing().models] == ["model.safetensors"]
    assert origin_of(backend.root / "diffusion_models/model.safetensors") == state.origin


def test_a_revision_and_a_path_are_quoted(hub: ModelHub, backend: FolderBackend, downloads: Downloads) -> None:
    hub.store("org/name/vae/my model.safetensors", DATA)
    fetch(downloads, "hf:org/name/vae/my model.safetensors@refs/pr/1")
    assert hub.asked[0].path == "/org/name/resolve/refs%2Fpr%2F1/vae/my%20model.safetensors"
    assert files(backend) == {"vae/my model.safetensors": DATA}


def test_a_file_comes_from_civitai(hub: ModelHub, backend: FolderBackend, downloads: Downloads) -> None:
    hub.publish(128, DATA)
    hub.gate_token = "civitai_secret"
    # The stand-in is both sites at one address, where Hugging Face's token would be taken for it.
    state = fetch(downloads, "civitai:128", OriginTokens(SecretStr("civitai_secret"), SecretStr("civitai_secret")))
    assert state.origin is not None
    assert (state.origin.source, state.origin.sha256) == ("civitai:128", SHA256)
    assert files(backend) == {"checkpoints/model.safetensors": DATA}
    (storage,) = hub.requests_to(hub.storage_url)
    assert "authorization" not in storage.headers


def test_a_file_is_found_by_its_hash(hub: ModelHub, backend: FolderBackend, downloads: Downloads) -> None:
    hub.publish(7, DATA, name="its name there.safetensors", kind="VAE")
    fetch(downloads, f"sha256:{SHA256}", name="mine.safetensors")
    assert files(backend) == {"vae/mine.safetensors": DATA}


def test_a_hash_that_nobody_knows_is_told(downloads: Downloads) -> None:
    with pytest.raises(DownloadFailedError, match=f"SHA-256 {SHA256}"):
        fetch(downloads, f"sha256:{SHA256}")


def test_a_file_is_found_by_its_hash_in_a_repository(
    hub: ModelHub, backend: FolderBackend, downloads: Downloads
) -> None:
    hub.store("org/name/vae/other.safetensors", safetensors_file(1000))
    hub.store("org/name/vae/this.safetensors", DATA)
    hub.gate_token = "hf_secret"
    state = fetch(downloads, "hf:org/name", sha256=SHA256)
    assert files(backend) == {"vae/this.safetensors": DATA}
    assert state.origin is not None
    assert state.origin.source == f"hf:org/name/vae/this.safetensors@{COMMIT}"


@pytest.mark.parametrize(
    ("more", "words"), [({}, "Name a file of hf:org/name"), ({"sha256": "0" * 64}, "no file with")]
)
def test_a_repository_alone_is_no_file(
    hub: ModelHub, downloads: Downloads, more: dict[str, str], words: str
) -> None:
    hub.store("org/name/vae/this.safetensors", DATA)
    with pytest.raises(DownloadFailedError, match=words):
        fetch(downloads, "hf:org/name", **more)


@pytest.mark.parametrize("answer", [b"{}", b"[3]", b"[" * 10_000, b'[{"path": 3}]'])
def test_a_listing_of_another_form_is_refused(hub: ModelHub, downloads: Downloads, answer: bytes) -> None:
    hub.site_faults.append(model_hub.body(answer))
    with pytest.raises(DownloadFailedError, match="something else than a listing"):
        fetch(downloads, "hf:org/name", sha256=SHA256)


def test_of_civitais_files_one_is_chosen_that_may_be_taken(
    hub: ModelHub, backend: FolderBackend, downloads: Downloads
) -> None:
    hub.publish(1, DATA)
    files_there = hub.versions[1]["files"]
    files_there.insert(0, {**files_there[0], "name": "model.ckpt"})
    files_there.insert(1, {**files_there[1], "name": "small.safetensors", "primary": False})
    fetch(downloads, "civitai:1")
    assert list(files(backend)) == ["checkpoints/model.safetensors"]


def test_a_version_without_such_a_file_is_told(hub: ModelHub, downloads: Downloads) -> None:
    hub.publish(1, PICKLE, name="model.ckpt")
    with pytest.raises(DownloadFailedError, match="no file that a worker takes"):
        fetch(downloads, "civitai:1")


@pytest.mark.parametrize("answer", [b"<html>", b"[]", b"{}", b'{"id": "x"}', b"[" * 10_000, b'{"id":1,"files":3}'])
def test_an_answer_of_another_form_is_refused(hub: ModelHub, downloads: Downloads, answer: bytes) -> None:
    hub.site_faults.append(model_hub.body(answer))
    with pytest.raises(DownloadFailedError, match="something else than a version"):
        fetch(downloads, "civitai:1")


def test_a_download_that_civitai_names_elsewhere_is_refused(hub: ModelHub, downloads: Downloads) -> None:
    hub.publish(1, DATA, downloadUrl="http://169.254.169.254/latest")
    with pytest.raises(RefusedSourceError):
        fetch(downloads, "civitai:1")


def test_a_file_comes_from_an_address(hub: ModelHub, backend: FolderBackend, downloads: Downloads) -> None:
    hub.files["vae/x.safetensors"] = hub.keep(DATA)
    state = fetch(downloads, f"{hub.url}/plain/vae/x.safetensors?token=query_secret")
    assert files(backend) == {"vae/x.safetensors": DATA}
    assert state.origin is not None
    assert state.origin.source == f"{hub.url}/plain/vae/x.safetensors"


def test_a_gguf_is_refused_where_the_backend_cannot_load_it(hub: ModelHub, downloads: Downloads) -> None:
    hub.store("o/n/vae/x.gguf", gguf_file())
    with pytest.raises(RefusedFileError, match=r"cannot load \.gguf"):
        fetch(downloads, "hf:o/n/vae/x.gguf")


CUTS = [0, 1, 7, 100, 1023, 1024, 1025, *range(20_000, 300_000, 20_000)]


@pytest.mark.parametrize("cut", CUTS)
def test_a_cut_file_is_continued(hub: ModelHub, backend: FolderBackend, downloads: Downloads, cut: int) -> None:
    assert len(CUTS) >= 20
    stored = hub.store(PATH, DATA)
    hub.faults.append(model_hub.cut_at(hub, stored, cut))
    fetch(downloads)
    assert files(backend) == {"diffusion_models/model.safetensors": DATA}
    ranges = [asked.headers["range"] for asked in hub.requests_to(hub.storage_url) if "range" in asked.headers]
    assert ranges == ([f"bytes={cut}-"] if cut else [])


def test_a_file_that_is_cut_again_and_again_comes(
    hub: ModelHub, backend: FolderBackend, downloads: Downloads
) -> None:
    stored = hub.store(PATH, DATA)
    hub.faults.append(model_hub.cut_at(hub, stored, 10_000))
    for cut in range(25_000, 300_000, 15_000):
        # An attempt after a loss asks from the start first, to see what the file is, and then for the rest.
        hub.faults += [lambda exchange: exchange.send_stored(stored) is None, model_hub.cut_at(hub, stored, cut)]
    fetch(downloads)
    assert files(backend) == {"diffusion_models/model.safetensors": DATA}


@pytest.mark.parametrize("tag", [None, 'W/"weak"'])
def test_an_address_without_a_strong_tag_is_read_anew(
    hub: ModelHub, backend: FolderBackend, downloads: Downloads, tag: str | None
) -> None:
    stored = hub.files["vae/x.safetensors"] = hub.keep(DATA)
    stored.tag = tag
    hub.site_faults.append(model_hub.cut_at(hub, stored, 100_000))
    fetch(downloads, f"{hub.url}/plain/vae/x.safetensors")
    assert files(backend) == {"vae/x.safetensors": DATA}
    assert all("range" not in asked.headers for asked in hub.asked)


@pytest.mark.parametrize("length", ["1" * 5000, "-1", "1e3", str(10**17)])
def test_an_impossible_length_ends_in_a_refusal(
    hub: ModelHub, backend: FolderBackend, downloads: Downloads, length: str
) -> None:
    def lie(exchange: Exchange) -> bool:
        exchange.begin(200, None, **{"Content-Length": length})
        exchange.wfile.write(DATA[:1000])
        return True

    hub.files["vae/x.safetensors"] = hub.keep(DATA)
    hub.site_faults += [lie] * 20
    with pytest.raises(ModelStoreError) as refused:
        fetch(downloads, f"{hub.url}/plain/vae/x.safetensors")
    assert fault_of(refused.value).code != "internal"
    assert files(backend) == {}


def test_storage_without_ranges_is_read_anew(hub: ModelHub, backend: FolderBackend, downloads: Downloads) -> None:
    stored = hub.store(PATH, DATA)
    hub.ranges = False
    hub.faults.append(model_hub.cut_at(hub, stored, 100_000))
    fetch(downloads)
    assert files(backend) == {"diffusion_models/model.safetensors": DATA}


def test_a_file_that_was_replaced_meanwhile_is_read_anew(
    hub: ModelHub, backend: FolderBackend, downloads: Downloads
) -> None:
    """Between two attempts, and between the two requests of one: never a mixture."""
    address, newer = f"{hub.url}/plain/vae/x.safetensors", safetensors_file(300_000, seed=3)
    stored = hub.files["vae/x.safetensors"] = hub.keep(DATA)

    def replace(exchange: Exchange) -> bool:
        hub.files["vae/x.safetensors"] = hub.keep(newer)
        exchange.send_stored(stored)
        return True

    hub.site_faults += [model_hub.cut_at(hub, stored, 100_000), replace]
    fetch(downloads, address)
    assert files(backend)["vae/x.safetensors"] == newer


@pytest.mark.parametrize("status", [206, 416])
def test_a_wrong_range_is_not_used(
    hub: ModelHub, backend: FolderBackend, downloads: Downloads, status: int
) -> None:
    stored = hub.store(PATH, DATA)

    def other_range(exchange: Exchange) -> bool:
        exchange.begin(status, 10, **{"Content-Range": f"bytes 0-9/{len(DATA)}"})
        exchange.wfile.write(DATA[:10])
        return True

    hub.faults += [
        model_hub.cut_at(hub, stored, 100_000),
        lambda exchange: exchange.send_stored(stored) is None,
        other_range,
    ]
    fetch(downloads)
    assert files(backend) == {"diffusion_models/model.safetensors": DATA}


def test_a_wrong_hash_leaves_nothing(hub: ModelHub, backend: FolderBackend, downloads: Downloads) -> None:
    hub.store(PATH, DATA)
    other = safetensors_file(300_000, seed=5)
    hub.faults += [model_hub.body(other)]
    with pytest.raises(RefusedFileError, match=SHA256):
        fetch(downloads)
    assert files(backend) == {}


def test_a_hash_that_the_site_contradicts_spares_the_download(
    hub: ModelHub, backend: FolderBackend, downloads: Downloads
) -> None:
    hub.store(PATH, DATA)
    with pytest.raises(DownloadFailedError, match=SHA256):
        fetch(downloads, sha256="0" * 64)
    assert files(backend) == {}


@pytest.mark.parametrize(
    ("data", "words"),
    [(PAGE, "web page"), (PICKLE, "pickle"), (DATA[:200], "no whole safetensors"), (b"", "no safetensors")],
)
def test_another_file_leaves_nothing(
    hub: ModelHub, backend: FolderBackend, downloads: Downloads, data: bytes, words: str
) -> None:
    hub.files["vae/x.safetensors"] = hub.keep(data)
    with pytest.raises(RefusedFileError, match=words):
        fetch(downloads, f"{hub.url}/plain/vae/x.safetensors")
    assert files(backend) == {}


def test_an_encoded_body_is_refused(hub: ModelHub, backend: FolderBackend, downloads: Downloads) -> None:
    hub.store(PATH, DATA)
    hub.faults.append(model_hub.body(b"x", Content_Encoding="gzip"))
    with pytest.raises(DownloadFailedError, match="encoding"):
        fetch(downloads)
    assert files(backend) == {}


def test_a_busy_site_is_asked_again(hub: ModelHub, backend: FolderBackend, downloads: Downloads) -> None:
    hub.store(PATH, DATA)
    hub.site_faults += [model_hub.status(429, Retry_After="0"), model_hub.status(503)]
    hub.faults += [model_hub.status(500)]
    fetch(downloads)
    assert files(backend) == {"diffusion_models/model.safetensors": DATA}


def test_a_site_that_stays_away_is_given_up(hub: ModelHub, backend: FolderBackend, downloads: Downloads) -> None:
    hub.store(PATH, DATA)
    hub.faults += [model_hub.status(503)] * 50
    with pytest.raises(DownloadFailedError, match=r"answers 503.*ask for the file again"):
        fetch(downloads)
    assert len(hub.requests_to(hub.storage_url)) == transfer._ATTEMPTS
    assert files(backend) == {}


def test_a_wait_of_hours_is_told_and_not_waited_for(hub: ModelHub, downloads: Downloads) -> None:
    hub.store(PATH, DATA)
    hub.site_faults += [model_hub.status(429, Retry_After="7200")]
    with pytest.raises(DownloadFailedError, match="asks to wait for 7200 s"):
        fetch(downloads)


@pytest.mark.parametrize("source", [SOURCE, "civitai:5", f"sha256:{SHA256}"])
def test_a_gated_model_says_what_it_needs(hub: ModelHub, downloads: Downloads, source: str) -> None:
    hub.store(PATH, DATA)
    hub.gate_token = "another"
    with pytest.raises(DownloadFailedError, match="HF_TOKEN"):
        fetch(downloads, source, OriginTokens())


def test_a_full_disk_keeps_the_part(
    hub: ModelHub, backend: FolderBackend, downloads: Downloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.store(PATH, DATA)
    write, left = os.write, [100_000]

    def full(handle: int, data: memoryview) -> int:
        if left[0] <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = write(handle, data[: left[0]])
        left[0] -= count
        return count

    with monkeypatch.context() as patch:
        patch.setattr(incoming_file.os, "write", full)
        with pytest.raises(DiskFullError, match="disk is full") as error:
            fetch(downloads)
        assert fault_of(error.value).code == "disk_full"
    (part,) = files(backend)
    assert part.endswith(".part")
    fetch(downloads)
    assert files(backend) == {"diffusion_models/model.safetensors": DATA}
    assert hub.requests_to(hub.storage_url)[-1].headers["range"] == "bytes=100000-"


@pytest.mark.parametrize(
    ("name", "folder"),
    [("../x.safetensors", "vae"), ("/etc/x.safetensors", "vae"), ("x.safetensors", "../vae"), ("x.py", "vae")],
)
def test_a_name_that_leads_elsewhere_is_refused_before_the_download(
    hub: ModelHub, backend: FolderBackend, downloads: Downloads, name: str, folder: str
) -> None:
    hub.store(PATH, DATA)
    with pytest.raises(RefusedFileError):
        fetch(downloads, name=name, folder=folder)
    assert not hub.requests_to(hub.storage_url)
    assert files(backend) == {}


def test_a_name_at_the_source_is_checked_as_well(hub: ModelHub, downloads: Downloads) -> None:
    hub.publish(1, DATA, name="../../x.safetensors")
    with pytest.raises(RefusedFileError):
        fetch(downloads, "civitai:1")


def test_a_folder_that_nobody_names_is_asked_for(hub: ModelHub, downloads: Downloads) -> None:
    hub.store("o/n/x.safetensors", DATA)
    with pytest.raises(RefusedFileError, match=r"--folder\): checkpoints, diffusion_models, vae"):
        fetch(downloads, "hf:o/n/x.safetensors")
    assert not hub.asked


def test_an_older_name_of_a_folder_is_known(hub: ModelHub, backend: FolderBackend, downloads: Downloads) -> None:
    hub.store("o/n/unet/x.safetensors", DATA)
    fetch(downloads, "hf:o/n/unet/x.safetensors")
    assert list(files(backend)) == ["diffusion_models/x.safetensors"]


def test_a_file_that_is_there_is_not_downloaded_again(
    hub: ModelHub, backend: FolderBackend, downloads: Downloads
) -> None:
    hub.publish(1, DATA)
    fetch(downloads, "civitai:1")
    assert fetch(downloads, "civitai:1").origin is not None
    assert len(hub.requests_to(hub.storage_url)) == 1
    hub.store("o/n/checkpoints/model.safetensors", DATA)
    fetch(downloads, "hf:o/n/checkpoints/model.safetensors")
    assert list(files(backend)) == ["checkpoints/model.safetensors"]


def test_a_file_that_the_operator_put_there_is_known_by_its_hash(
    hub: ModelHub, backend: FolderBackend, downloads: Downloads
) -> None:
    hub.publish(1, DATA)
    (backend.root / "checkpoints").mkdir(parents=True)
    (backend.root / "checkpoints/model.safetensors").write_bytes(DATA)
    assert fetch(downloads, "civitai:1").origin is not None
    assert not hub.requests_to(hub.storage_url)


def test_another_file_of_that_name_stays(hub: ModelHub, backend: FolderBackend, downloads: Downloads) -> None:
    hub.publish(1, DATA)
    (backend.root / "checkpoints").mkdir(parents=True)
    (backend.root / "checkpoints/model.safetensors").write_bytes(b"the user's own")
    with pytest.raises(RefusedFileError, match="There is another"):
        fetch(downloads, "civitai:1")
    assert files(backend) == {"checkpoints/model.safetensors": b"the user's own"}


class Gate:
    """A fault that sends half of a file, and the rest once it is opened."""

    def __init__(self, stored: model_hub.Stored) -> None:
        self.stored = stored
        self.begun, self.open = threading.Event(), threading.Event()

    def __call__(self, exchange: Exchange) -> bool:
        data = self.stored.data
        exchange.begin(200, len(data), ETag=self.stored.tag or "")
        exchange.wfile.write(data[: len(data) // 2])
        self.begun.set()
        self.open.wait(PATIENCE_S)
        with suppress(OSError):  # of a download that was stopped
            exchange.wfile.write(data[len(data) // 2 :])
        return True


@pytest.fixture
def gate(hub: ModelHub) -> Iterator[Gate]:
    gate = Gate(hub.store(PATH, safetensors_file(4_000_000)))
    hub.faults.append(gate)
    yield gate
    gate.open.set()


def test_two_clients_share_one_download_which_counts_as_use(
    hub: ModelHub, downloads: Downloads, gate: Gate, activity: Activity
) -> None:
    job = downloads.begin(Wanted(SOURCE), TOKENS)
    assert gate.begun.wait(PATIENCE_S)
    assert downloads.begin(Wanted(SOURCE), OriginTokens()) is job
    assert downloads.get(job.name) is job
    assert activity.idle_s == 0
    job.state("another1", 0.0)
    job.state(CLIENT, 0.0)
    assert not job.leave(CLIENT)  # the other one still waits
    gate.open.set()
    assert ended(job).origin is not None
    assert len(hub.requests_to(hub.storage_url)) == 1
    assert activity.idle_s > 0


def test_the_same_file_by_another_name_of_it_waits_for_the_first(
    hub: ModelHub, backend: FolderBackend, downloads: Downloads, gate: Gate
) -> None:
    first = downloads.begin(Wanted(SOURCE), TOKENS)
    assert gate.begun.wait(PATIENCE_S)
    second = downloads.begin(Wanted(f"{SOURCE}@main"), TOKENS)
    while (second.state(CLIENT, 0.01).waits_for or "").find("already") < 0:
        assert not second.is_over
    gate.open.set()
    assert ended(first).origin == ended(second).origin
    assert len(files(backend)) == 1


def test_a_stopped_download_keeps_its_part_and_is_continued(
    hub: ModelHub, backend: FolderBackend, downloads: Downloads, gate: Gate
) -> None:
    job = downloads.begin(Wanted(SOURCE), TOKENS)
    assert gate.begun.wait(PATIENCE_S)
    while job.state(CLIENT, 0.01).received < 1_000_000:
        assert not job.is_over
    assert job.leave(CLIENT)
    gate.open.set()
    with pytest.raises(DownloadStoppedError, match="part is kept"):
        ended(job)
    (part,) = files(backend)
    assert part.endswith(".part")
    received = len(files(backend)[part])
    fetch(downloads)
    assert hub.requests_to(hub.storage_url)[-1].headers["range"] == f"bytes={received}-"


def test_a_part_is_continued_by_the_next_start_of_the_worker(
    hub: ModelHub, backend: FolderBackend, downloads: Downloads
) -> None:
    hub.store(PATH, DATA)
    place = Place("diffusion_models", "model.safetensors", backend.root / "diffusion_models")
    with IncomingFile(place, SHA256, len(DATA)) as earlier:
        earlier.write(DATA[:123_456])
    fetch(Downloads(options_for(hub), backend.model_folders))
    assert hub.requests_to(hub.storage_url)[-1].headers["range"] == "bytes=123456-"
    assert files(backend) == {"diffusion_models/model.safetensors": DATA}


def test_a_part_that_is_whole_is_only_checked(hub: ModelHub, backend: FolderBackend, downloads: Downloads) -> None:
    hub.store(PATH, DATA)
    place = Place("diffusion_models", "model.safetensors", backend.root / "diffusion_models")
    with IncomingFile(place, SHA256, len(DATA)) as earlier:
        earlier.write(DATA)
    fetch(downloads)
    assert files(backend) == {"diffusion_models/model.safetensors": DATA}


def test_a_download_that_is_not_known_is_refused(downloads: Downloads) -> None:
    with pytest.raises(RefusedError) as refused:
        downloads.get("x" * 32)
    assert refused.value.fault.retryable


def test_only_so_many_are_under_way(
    hub: ModelHub, downloads: Downloads, monkeypatch: pytest.MonkeyPatch, gate: Gate
) -> None:
    from comfy_gpu_offload.server.model_downloads import downloads as module

    monkeypatch.setattr(module, "_MOST_JOBS", 1)
    job = downloads.begin(Wanted(SOURCE), TOKENS)
    with pytest.raises(RefusedError, match="under way"):
        downloads.begin(Wanted(SOURCE, name="other.safetensors"), TOKENS)
    gate.open.set()
    ended(job)


def test_no_secret_is_logged_or_written(
    hub: ModelHub, backend: FolderBackend, downloads: Downloads, caplog: pytest.LogCaptureFixture
) -> None:
    hub.files["vae/x.safetensors"] = hub.keep(DATA)
    hub.site_faults.append(model_hub.status(503))
    with caplog.at_level(logging.DEBUG):
        job = downloads.begin(Wanted(f"{hub.url}/plain/vae/x.safetensors?token=query_secret"), TOKENS)
        ended(job)
    shown = f"{caplog.text} {job.wanted!r} {TOKENS!r} {vars(job)!r}"
    for path in backend.root.rglob("*.json"):
        shown += path.read_text("utf-8")
    assert "vae/x.safetensors" in shown or "x.safetensors" in shown
    for secret in ("hf_secret", "civitai_secret", "query_secret"):
        assert secret not in shown
    assert isinstance(backend.root, Path)
