"""The command `models`: sizes, hashes and sources, as text and as JSON; a removal that asks first."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.model_files import safetensors_file
from tests.support.storing_worker import FOLDER, StoringBackend
from tests.support.worker import ThreadWorker

from comfy_gpu_offload import connect
from comfy_gpu_offload.cli.main import main
from comfy_gpu_offload.server.model_store import disk_space

CONTENT = safetensors_file(5000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Run a worker with a file that was pushed and one of its operator's."""
    monkeypatch.setattr(disk_space, "MARGIN_BYTES", 0)
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "theirs.safetensors").write_bytes(CONTENT)
    (tmp_path / "own.safetensors").write_bytes(CONTENT)
    with ThreadWorker(StoringBackend(folder), takes_models=True) as worker:
        with connect(worker.url) as session:
            session.push_model(tmp_path / "own.safetensors", FOLDER, uploads=True)
        monkeypatch.setenv("COMFY_GPU_OFFLOAD_URL", worker.url)
        yield folder


def answer(monkeypatch: pytest.MonkeyPatch, text: str | None) -> None:
    def read(_: str) -> str:
        if text is None:
            raise EOFError
        return text

    monkeypatch.setattr("builtins.input", read)


def test_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"    0.000 GB  diffusion_models    own.safetensors  (sha256 {SHA256[:12]}…, pushed)",
        "    0.000 GB  diffusion_models    theirs.safetensors",
        "2 models on test device, backend function",
    ]


def test_whole_hashes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--hashes"]) == 0
    assert f"(sha256 {SHA256}, pushed)" in capsys.readouterr().out


def test_json(capsys: pytest.CaptureFixture[str], models: Path) -> None:
    assert main(["models", "--json"]) == 0
    size = (models / "own.safetensors").stat().st_size
    own = {"name": "own.safetensors", "folder": FOLDER, "size_bytes": size, "sha256": SHA256, "source": "push"}
    theirs = {**own, "name": "theirs.safetensors", "sha256": None, "source": None}
    assert json.loads(capsys.readouterr().out) == [own, theirs]


@pytest.mark.parametrize("said", ["n", "", None])
def test_a_removal_asks(
    said: str | None, monkeypatch: pytest.MonkeyPatch, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer(monkeypatch, said)
    assert main(["models", "--remove", "own.safetensors"]) == 1
    assert "Nothing was removed." in capsys.readouterr().out
    assert (models / "own.safetensors").exists()


@pytest.mark.parametrize("arguments", [[], ["--yes"], ["--folder", FOLDER]])
def test_a_removal(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer(monkeypatch, None if "--yes" in arguments else "y")
    assert main(["models", "--remove", "own.safetensors", *arguments]) == 0
    assert "own.safetensors was removed from diffusion_models at the worker." in capsys.readouterr().out
    assert [path.name for path in models.glob("*.safetensors")] == ["theirs.safetensors"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("theirs.safetensors", "was not brought to the worker by fetch or push"),
        ("another.safetensors", "The worker has no model another.safetensors"),
    ],
)
def test_a_removal_that_is_not_done(
    name: str, words: str, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", "--remove", name, "--yes"]) == 2
    assert words in capsys.readouterr().err
    assert len(list(models.glob("*.safetensors"))) == 2
