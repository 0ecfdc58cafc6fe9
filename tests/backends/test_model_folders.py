"""Folders of models with bad entries in them, which are passed over without harm to the rest."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from tests.support.platforms import needs_posix
from tests.support.process import worker_process

from comfy_gpu_offload import connect
from comfy_gpu_offload.backends.model_folders import MAX_NAME, FoundFile, Skips, files_in
from comfy_gpu_offload.cli.main import main
from comfy_gpu_offload.digits.model import WEIGHTS
from comfy_gpu_offload.protocol.messages import MAX_SKIPPED

LONG = Path("a" * 120, "b" * 120, "c" * 120)


def is_model(name: str) -> bool:
    return name.endswith(".safetensors")


def look(root: Path) -> tuple[list[FoundFile], dict[str, str]]:
    skips = Skips()
    found = list(files_in(root, is_model, skips))
    return found, {entry.name: entry.reason for entry in skips.entries.values()}


def write(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"1234")


def non_utf8(folder: Path) -> Path:
    return Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.safetensors"))


def spoil(root: Path) -> None:
    """Put one of each bad entry into the folder."""
    write(root / LONG / "deep.safetensors")
    write(non_utf8(root))
    (root / "gone.safetensors").symlink_to(root / "nowhere")
    (root / "unmounted").symlink_to("/mnt/not-there/models")
    (root / "circle.safetensors").symlink_to("circle.safetensors")
    (root / "loop").symlink_to(root)
    (root / "inner").mkdir()
    (root / "inner" / "loop").symlink_to(root)
    os.mkfifo(root / "pipe.safetensors")


@needs_posix
def test_each_bad_entry_is_passed_over_with_its_reason(tmp_path: Path) -> None:
    spoil(tmp_path)
    write(tmp_path / "good.safetensors")
    write(tmp_path / "inner" / "also good.safetensors")
    write(tmp_path / "notes.txt")
    found, reasons = look(tmp_path)
    assert [(file.name, file.size_bytes) for file in found] == [
        ("good.safetensors", 4),
        ("inner/also good.safetensors", 4),
    ]
    (deep,) = [name for name in reasons if name.endswith("deep.safetensors")]
    assert len(deep) <= 256
    assert "shorten it" in reasons.pop(deep)
    assert {name: reason.split(":")[0] for name, reason in reasons.items()} == {
        "caf\\xe9.safetensors": "its name is not UTF-8",
        "gone.safetensors": "a link to a file that is not there",
        "unmounted": "a link to a file that is not there",
        "circle.safetensors": "a link that leads back to itself",
        "loop": "a folder that lies in itself, by a link",
        "inner/loop": "a folder that lies in itself, by a link",
        "pipe.safetensors": "it is no ordinary file",
    }


@needs_posix
def test_the_longest_name_that_travels_is_found(tmp_path: Path) -> None:
    name = "d" * 200 + "/" + "f" * (MAX_NAME - 201 - len(".safetensors")) + ".safetensors"
    write(tmp_path / name)
    found, reasons = look(tmp_path)
    assert [file.name for file in found] == [name]
    assert not reasons


@needs_posix
def test_a_folder_that_a_link_leads_to_is_looked_into_by_both_names(tmp_path: Path) -> None:
    write(tmp_path / "models" / "a.safetensors")
    (tmp_path / "favourites").symlink_to("models")
    found, reasons = look(tmp_path)
    assert [file.name for file in found] == ["favourites/a.safetensors", "models/a.safetensors"]
    assert not reasons


@needs_posix
@pytest.mark.skipif(
    getattr(os, "geteuid", int)() != 0, reason="only root can become another user to whom files are closed"
)
def test_what_this_user_may_not_read_is_passed_over(tmp_path: Path) -> None:
    write(tmp_path / "closed.safetensors")
    write(tmp_path / "shut" / "inside.safetensors")
    write(tmp_path / "open.safetensors")
    (tmp_path / "closed.safetensors").chmod(0)
    (tmp_path / "shut").chmod(0)
    for folder in (tmp_path, *tmp_path.parents[:3]):
        if folder != Path("/tmp"):
            folder.chmod(0o755)
    child = os.fork()
    if not child:  # as nobody, who cannot come back
        os.setuid(65534)
        found, reasons = look(tmp_path)
        expected = {"closed.safetensors", "shut"}
        os._exit([file.name for file in found] != ["open.safetensors"] or set(reasons) != expected)
    assert os.waitpid(child, 0)[1] == 0


def copy_digits(folder: Path) -> None:
    folder.mkdir(parents=True)
    for file in (WEIGHTS, WEIGHTS.parent / "config.json"):
        shutil.copy(file, folder)


def spoil_zoo(zoo: Path) -> None:
    """Put in what a Hugging Face cache leaves, and other bad entries."""
    spoil(zoo)
    copy_digits(zoo / LONG / "model")
    copy_digits(zoo / "left over")
    weights = zoo / "left over" / WEIGHTS.name
    weights.unlink()
    weights.symlink_to(zoo / "blobs" / "0123")
    copy_digits(zoo / "no json")
    (zoo / "no json" / "config.json").write_bytes(b"<html>")
    copy_digits(Path(os.fsdecode(os.fsencode(zoo) + b"/mod\xe8le")))


@needs_posix
def test_a_worker_with_bad_entries_answers_every_hello_and_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Check a worker that runs when they come, and one that is started with them there."""
    zoo = tmp_path / "zoo"
    copy_digits(zoo / "good")
    arguments = ("--backend", "diffusers", "--port", "0", "--cpu", "--models", str(zoo))
    with worker_process(*arguments, cwd=tmp_path) as worker, connect(worker.url) as session:
        assert session.welcome.skipped is None
        spoil_zoo(zoo)
        for _ in range(2):
            assert [entry.name for entry in session.models()] == ["digits", "good"]
        assert session.model("good").description.ref.name == "good"
        skipped = session.welcome.skipped
        assert skipped is not None
        reasons = {entry.name: entry.reason for entry in skipped.entries}
        assert skipped.count == len(reasons)
        assert "not there" in reasons[f"left over/{WEIGHTS.name}"]
        worker.terminate()
        log = "".join(worker.log)
    assert log.count("gone.safetensors is not offered") == 1
    with worker_process(*arguments, cwd=tmp_path) as again:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("COMFY_GPU_OFFLOAD_URL", again.url)
        assert main(["models"]) == 0
        assert "not offered: gone.safetensors: a link to a file that is not there" in capsys.readouterr().out
        assert main(["doctor"]) == 0
        assert "not offered: gone.safetensors: a link to a file that is not there" in capsys.readouterr().out


@needs_posix
def test_a_welcome_holds_the_first_of_many_bad_entries(tmp_path: Path) -> None:
    zoo = tmp_path / "zoo"
    zoo.mkdir()
    for number in range(500):
        (zoo / f"{number:03}.safetensors").symlink_to("nowhere")
    arguments = ("--backend", "diffusers", "--port", "0", "--cpu", "--models", str(zoo))
    with worker_process(*arguments, cwd=tmp_path) as worker, connect(worker.url) as session:
        skipped = session.welcome.skipped
    assert skipped is not None
    assert skipped.count == 500
    assert len(skipped.entries) == MAX_SKIPPED
