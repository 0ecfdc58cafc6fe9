"""The command `push`, as a user gives it: what it prints, its exit status, and the folder that it guesses."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.model_files import PAGE, safetensors_file
from tests.support.storing_worker import FOLDER, StoringBackend
from tests.support.worker import ThreadWorker

from comfy_gpu_offload.cli.byte_progress import ByteProgress
from comfy_gpu_offload.cli.main import main
from comfy_gpu_offload.cli.push_command import guessed_folder
from comfy_gpu_offload.client import model_push
from comfy_gpu_offload.errors import ConfigError
from comfy_gpu_offload.server.model_store import disk_space


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(disk_space, "MARGIN_BYTES", 0)
    made = tmp_path / FOLDER / "own.safetensors"
    made.parent.mkdir()
    made.write_bytes(safetensors_file(3_000_000))
    return made


def push(monkeypatch: pytest.MonkeyPatch, worker: ThreadWorker, *arguments: str) -> int:
    monkeypatch.setenv("COMFY_GPU_OFFLOAD_URL", worker.url)
    return main(["push", "--upload", *arguments])


def storing(folder: Path, *, takes_models: bool = True) -> ThreadWorker:
    return ThreadWorker(StoringBackend(folder), takes_models=takes_models)


def test_a_file_is_pushed(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with storing(tmp_path / "models") as worker:
        assert push(monkeypatch, worker, str(file), "--name", "there.safetensors") == 0
    assert (tmp_path / "models" / "there.safetensors").read_bytes() == file.read_bytes()
    said = capsys.readouterr()
    assert said.out == "there.safetensors is at the worker now, in diffusion_models.\n"
    assert "hashing own.safetensors" in said.err
    assert "100 %, 3.00 of 3.00 MB" in said.err


def test_ctrl_c_says_that_it_goes_on(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(model_push, "MOST_PART_BYTES", 256 * 1024)
    show = ByteProgress.show

    def interrupted(line: ByteProgress, what: str, done: int, of: int) -> None:
        show(line, what, done, of)
        if what.startswith("sending") and done > 1_000_000:
            raise KeyboardInterrupt

    with storing(tmp_path / "models") as worker:
        with monkeypatch.context() as patch:
            patch.setattr(ByteProgress, "show", interrupted)
            assert push(monkeypatch, worker, str(file)) == 130
        assert "the same command goes on from there" in capsys.readouterr().out
        assert push(monkeypatch, worker, str(file)) == 0
    assert (tmp_path / "models" / file.name).read_bytes() == file.read_bytes()


def test_a_worker_that_takes_no_files(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with storing(tmp_path / "models", takes_models=False) as worker:
        assert push(monkeypatch, worker, str(file)) == 1
    assert "start it with --allow-downloads" in capsys.readouterr().err


def test_what_is_no_model_is_not_even_hashed(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_bytes(PAGE)
    with storing(tmp_path / "models") as worker:
        assert push(monkeypatch, worker, str(file)) == 1
    said = capsys.readouterr().err
    assert "is a web page, not a model" in said
    assert "hashing" not in said


@pytest.mark.parametrize(
    ("path", "folder"),
    [
        ("models/checkpoints/sdxl/a.safetensors", "checkpoints"),
        ("models/unet/a.gguf", "diffusion_models"),
        ("models/clip/a.safetensors", "text_encoders"),
    ],
)
def test_the_folder_is_guessed_by_where_the_file_lies(path: str, folder: str) -> None:
    assert guessed_folder(Path(path)) == folder


def test_a_folder_that_cannot_be_guessed_is_asked_for() -> None:
    with pytest.raises(
        ConfigError, match=r"Say by --folder what a\.gguf is: .*checkpoints, clip_vision, controlnet"
    ):
        guessed_folder(Path("/srv/downloads/a.gguf"))
