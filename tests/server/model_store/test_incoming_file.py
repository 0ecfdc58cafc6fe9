"""A file gets its name when it is whole, checked and the one that was meant; never before."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
from tests.support.model_files import PAGE, PICKLE, safetensors_file

from comfy_gpu_offload.server.model_store import disk_space, incoming_file
from comfy_gpu_offload.server.model_store.incoming_file import IncomingFile
from comfy_gpu_offload.server.model_store.placement import Place
from comfy_gpu_offload.server.model_store.provenance import origin_of
from comfy_gpu_offload.server.model_store.refusals import DiskFullError, FileInUseError, RefusedFileError

DATA = safetensors_file(10_000)
SHA256 = hashlib.sha256(DATA).hexdigest()
Usage = namedtuple("Usage", "total used free")


def names(place: Place) -> list[str]:
    return sorted(path.name for path in place.directory.iterdir() if path.is_file())


def test_a_file_comes_in_blocks(place: Place) -> None:
    with IncomingFile(place, SHA256, len(DATA)) as file:
        for at in range(0, len(DATA), 999):
            file.write(memoryview(DATA)[at : at + 999])
            assert not place.path.exists()
        assert file.received == len(DATA)
        origin = file.finish(SHA256, "https://example.org/model?token=x")
    assert place.path.read_bytes() == DATA
    assert names(place) == [place.name]
    assert origin_of(place.path) == origin
    assert (origin.sha256, origin.source) == (SHA256, "https://example.org/model")


def test_a_file_of_unknown_size_and_hash_comes_too(place: Place) -> None:
    with IncomingFile(place, "etag") as file:
        file.write(DATA)
        assert file.finish(None, "push").sha256 == SHA256
    assert place.path.read_bytes() == DATA


@pytest.mark.parametrize("cut", range(0, len(DATA), len(DATA) // 19))
def test_a_part_is_continued_with_its_hash(place: Place, cut: int) -> None:
    with IncomingFile(place, SHA256, len(DATA)) as file:
        file.write(DATA[:cut])
    assert names(place) == ([file.part.name] if cut else [])
    with IncomingFile(place, SHA256, len(DATA)) as file:
        assert file.received == cut
        file.write(DATA[cut:])
        file.finish(SHA256, "push")
    assert place.path.read_bytes() == DATA


def test_a_part_of_another_content_is_not_continued(place: Place) -> None:
    with IncomingFile(place, SHA256, len(DATA)) as file:
        file.write(DATA[:500])
    with IncomingFile(place, "another", len(DATA)) as other:
        assert other.received == 0


def test_a_part_can_begin_anew(place: Place) -> None:
    with IncomingFile(place, "url", len(DATA)) as file:
        file.write(safetensors_file(10_000, seed=9)[:5000])
        file.restart()
        file.write(DATA)
        file.finish(SHA256, "push")
    assert place.path.read_bytes() == DATA


def test_an_unfinished_file_stays_a_part(place: Place) -> None:
    with IncomingFile(place, SHA256, len(DATA)) as file:
        file.write(DATA[:-1])
        with pytest.raises(RefusedFileError, match="not whole"):
            file.finish(SHA256, "push")
    assert names(place) == [file.part.name]


def test_a_file_with_another_hash_is_removed(place: Place) -> None:
    with IncomingFile(place, SHA256, len(DATA)) as file:
        file.write(safetensors_file(10_000, seed=1))
        with pytest.raises(RefusedFileError, match=SHA256):
            file.finish(SHA256, "push")
    assert names(place) == []


@pytest.mark.parametrize("data", [PAGE, PICKLE])
def test_another_file_is_refused_after_its_first_bytes(place: Place, data: bytes) -> None:
    with IncomingFile(place, "key", 10**9) as file, pytest.raises(RefusedFileError, match="is not taken: it is a"):
        file.write(data[:2000])
    assert names(place) == []


@pytest.mark.parametrize("data", [PAGE[:60], b"", DATA[:-1]])
def test_another_file_is_refused_at_its_end(place: Place, data: bytes) -> None:
    with IncomingFile(place, "key") as file:
        file.write(data)
        with pytest.raises(RefusedFileError, match="is not taken"):
            file.finish(None, "push")
    assert names(place) == []


def test_more_than_was_said_is_refused(place: Place) -> None:
    with IncomingFile(place, "key", 100) as file, pytest.raises(RefusedFileError, match="longer than the 100"):
        file.write(DATA)
    assert names(place) == []


def test_a_name_that_is_taken_stays_whose_it_is(place: Place) -> None:
    with IncomingFile(place, SHA256, len(DATA)) as file:
        file.write(DATA)
        place.path.write_bytes(b"another")
        with pytest.raises(RefusedFileError, match="There is another"):
            file.finish(SHA256, "push")
    with pytest.raises(RefusedFileError, match="There is another"):
        IncomingFile(place, SHA256, len(DATA))
    assert place.path.read_bytes() == b"another"
    assert names(place) == [place.name]


def test_a_file_system_without_links_renames(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "no links")

    monkeypatch.setattr(os, "link", refuse)
    with IncomingFile(place, SHA256, len(DATA)) as file:
        file.write(DATA)
        file.finish(SHA256, "push")
    assert names(place) == [place.name]


def test_a_link_in_the_files_place_is_not_followed(place: Place, tmp_path: Path) -> None:
    place.directory.mkdir()
    place.path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RefusedFileError, match="There is another"):
        IncomingFile(place, SHA256)
    assert not (tmp_path / "elsewhere").exists()


def test_a_link_in_the_parts_place_is_not_followed(place: Place, tmp_path: Path) -> None:
    with IncomingFile(place, SHA256) as file:
        pass
    assert not file.part.exists()
    file.part.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RefusedFileError, match="cannot write"):
        IncomingFile(place, SHA256)
    assert not (tmp_path / "elsewhere").exists()


def test_the_same_file_comes_once_at_a_time(place: Place) -> None:
    with IncomingFile(place, SHA256), pytest.raises(FileInUseError, match="already"):
        IncomingFile(place, SHA256)
    with IncomingFile(place, SHA256):
        pass


def test_another_process_may_not_write_the_same_part(place: Place) -> None:
    script = f"""
from pathlib import Path
from comfy_gpu_offload.server.model_store.incoming_file import IncomingFile
from comfy_gpu_offload.server.model_store.placement import Place
IncomingFile(Place("checkpoints", "model.safetensors", Path({str(place.directory)!r})), {SHA256!r})
"""
    with IncomingFile(place, SHA256):
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False
        )
    assert "FileInUseError" in done.stderr


def test_a_disk_without_room_is_known_before(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    free = disk_space.MARGIN_BYTES + 5000
    monkeypatch.setattr(disk_space.shutil, "disk_usage", lambda _: Usage(free, 0, free))
    with pytest.raises(DiskFullError, match="are to come"):
        IncomingFile(place, SHA256, len(DATA))
    with IncomingFile(place, SHA256, 5000):
        pass


def test_a_disk_that_others_fill_keeps_its_margin(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incoming_file, "_LOOK_BYTES", 2000)
    with IncomingFile(place, SHA256, len(DATA)) as file:
        file.write(DATA[:2500])
        monkeypatch.setattr(disk_space.shutil, "disk_usage", lambda _: Usage(0, 0, 0))
        with pytest.raises(DiskFullError):
            file.write(DATA[2500:])
    monkeypatch.undo()
    with IncomingFile(place, SHA256, len(DATA)) as file:
        assert file.received == 2500


def test_a_disk_that_is_full_in_the_middle_of_a_block_keeps_what_it_has(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    left = [3000]

    def full(handle: int, data: memoryview) -> int:
        if not left[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = write(handle, data[: left[0]])
        left[0] -= count
        return count

    monkeypatch.setattr(incoming_file.os, "write", full)
    with IncomingFile(place, SHA256, len(DATA)) as file, pytest.raises(DiskFullError, match="disk is full"):
        file.write(DATA)
    monkeypatch.undo()
    assert names(place) == [file.part.name]
    with IncomingFile(place, SHA256, len(DATA)) as file:
        assert file.received == 3000
        file.write(DATA[3000:])
        file.finish(SHA256, "push")
    assert place.path.read_bytes() == DATA


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_the_systems_own_full_device_is_told_as_one(place: Place) -> None:
    with pytest.raises(DiskFullError), disk_space.disk_errors(place.directory), open("/dev/full", "wb", 0) as full:
        full.write(b"x")


def test_a_folder_that_cannot_be_made_is_named(place: Place) -> None:
    place.directory.write_bytes(b"")
    with pytest.raises(RefusedFileError, match="cannot write to"):
        IncomingFile(place, SHA256)


def test_parts_that_nobody_continues_are_removed(place: Place) -> None:
    with IncomingFile(place, "old") as old:
        old.write(DATA[:100])
    with IncomingFile(place, "new") as new:
        new.write(DATA[:100])
    users_own = place.directory / "notes.part"
    users_own.write_bytes(b"")
    for path in (old.part, users_own):
        os.utime(path, (1, 1))
    with IncomingFile(place, "another"):
        pass
    assert not old.part.exists()
    assert new.part.exists()
    assert users_own.exists()


def test_a_discarded_part_is_gone(place: Place) -> None:
    with IncomingFile(place, SHA256) as file:
        file.write(DATA[:100])
        file.discard()
    assert names(place) == []
