"""The command `fetch` against a worker that listens, and Ctrl-C in a process of its own."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep

import pytest
from tests.support import model_hub
from tests.support.folder_backend import FolderBackend
from tests.support.model_files import safetensors_file
from tests.support.model_hub import ModelHub
from tests.support.process import environment
from tests.support.worker import ThreadWorker

from comfy_gpu_offload.cli.main import main
from comfy_gpu_offload.config.settings import Settings, given_settings, variable
from comfy_gpu_offload.server.handler_options import download_options

DATA = safetensors_file(3_000_000)
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def hub() -> Iterator[ModelHub]:
    with ModelHub() as hub:
        hub.store("org/name/vae/x.safetensors", DATA)
        yield hub


@pytest.fixture
def worker(hub: ModelHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadWorker]:
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(variable(name), raising=False)
    settings = given_settings(hf_endpoint=hub.url, civitai_endpoint=hub.url, download_hosts=hub.storage_url)
    with ThreadWorker(
        FolderBackend(tmp_path / "models"), takes_models=True, downloads=download_options(settings)
    ) as made:
        monkeypatch.setenv("COMFY_GPU_OFFLOAD_URL", made.url)
        yield made


def test_a_model_is_fetched(
    worker: ThreadWorker,
    hub: ModelHub,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert main(["fetch", "hf:org/name/vae/x.safetensors", "--sha256", SHA256.upper()]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        f"vae/x.safetensors: 0.003 GB from hf:org/name/vae/x.safetensors@{model_hub.COMMIT}",
        f"sha256 {SHA256}",
    ]
    assert (tmp_path / "models/vae/x.safetensors").read_bytes() == DATA
    assert hub.asked[0].headers["authorization"] == "Bearer hf_secret"
    assert "secret" not in said.out + said.err


def test_a_users_own_file_is_fetched_from_its_origin(
    worker: ThreadWorker, hub: ModelHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "my model.safetensors"
    own.write_bytes(DATA)
    hub.publish(128, DATA, name="its name there.safetensors")
    assert main(["fetch", str(own)]) == 0
    assert capsys.readouterr().out.startswith("checkpoints/my model.safetensors: 0.003 GB from civitai:128\n")
    assert (tmp_path / "models/checkpoints/my model.safetensors").read_bytes() == DATA


def test_a_users_own_file_is_looked_for_in_a_repository(
    worker: ThreadWorker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "mine.safetensors"
    own.write_bytes(DATA)
    assert main(["fetch", str(own), "--repository", "org/name"]) == 0
    assert capsys.readouterr().out.startswith("vae/mine.safetensors: 0.003 GB from hf:org/name/vae/x.safetensors@")


def test_a_file_that_is_nowhere_is_to_be_pushed(
    worker: ThreadWorker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own.safetensors"
    own.write_bytes(DATA)
    assert main(["fetch", str(own), "--folder", "vae"]) == 1
    assert f"comfy-gpu-offload push {own} --folder vae" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["hf:org/name/vae/none.safetensors"], 1, "has no /org/name/resolve/main/vae/none.safetensors"),
        (["nothing.safetensors"], 1, "cannot be read"),
        (["https://example.org/vae/x.safetensors"], 1, "does not download from https://example.org"),
        (["hf:org/name/vae/x.safetensors", "--name", "../x.safetensors"], 1, "cannot be a model's name"),
    ],
)
def test_what_fails_says_why(
    worker: ThreadWorker, arguments: list[str], status: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fetch", *arguments]) == status
    assert words in capsys.readouterr().err


def test_a_wrong_hash_is_a_wrong_call(worker: ThreadWorker, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["fetch", "hf:org/name/vae/x.safetensors", "--sha256", "12"])
    assert ended.value.code == 2
    assert "64 hexadecimal digits" in capsys.readouterr().err


def await_part(folder: Path) -> Path:
    """Return the part of the file that is being downloaded, once something is in it."""
    deadline = monotonic() + 60
    while not (found := [part for part in folder.glob("*.part") if part.stat().st_size]):
        assert monotonic() < deadline
        sleep(0.01)
    return found[0]


def test_ctrl_c_keeps_the_part_and_the_same_command_continues_it(
    worker: ThreadWorker, hub: ModelHub, tmp_path: Path
) -> None:
    half, go_on = threading.Event(), threading.Event()

    def hold(exchange: model_hub.Exchange) -> bool:
        exchange.begin(200, len(DATA))
        exchange.wfile.write(DATA[:2_000_000])
        half.set()
        go_on.wait(60)
        return True

    hub.faults.append(hold)
    command = [sys.executable, "-m", "comfy_gpu_offload", "fetch", "hf:org/name/vae/x.safetensors"]
    # A shell that runs the tests in the background has them ignore Ctrl-C, and the command would inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        command,
        env=environment(COMFY_GPU_OFFLOAD_URL=worker.url),
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    signal.signal(signal.SIGINT, before)
    assert half.wait(60)
    part = await_part(tmp_path / "models/vae")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    go_on.set()
    assert process.returncode == 130
    assert part.exists()
    assert "the same command continues it" in said
    assert "Traceback" not in said
    assert main(["fetch", "hf:org/name/vae/x.safetensors"]) == 0
    assert (tmp_path / "models/vae/x.safetensors").read_bytes() == DATA
    assert any("range" in asked.headers for asked in hub.requests_to(hub.storage_url))
