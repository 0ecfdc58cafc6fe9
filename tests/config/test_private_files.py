from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from tests.support.platforms import needs_posix

from comfy_gpu_offload.config import private_files
from comfy_gpu_offload.config.private_files import create_once, private_folder, replace_private, require_private
from comfy_gpu_offload.errors import ConfigError


@needs_posix
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_folder_and_files_are_this_users_alone_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        folder = private_folder(tmp_path / "new" / "pairing")
        create_once(folder / "key", b"secret")
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "key").stat().st_mode & 0o777 == 0o600
    assert [file.name for file in folder.iterdir()] == ["key"]


@needs_posix
def test_a_file_is_private_from_its_first_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[int] = []
    monkeypatch.setattr(
        os, "fsync", lambda _: modes.extend(each.stat().st_mode & 0o777 for each in tmp_path.iterdir())
    )
    before = os.umask(0)
    try:
        create_once(tmp_path / "key", b"secret")
    finally:
        os.umask(before)
    assert modes == [0o600]


@needs_posix
@pytest.mark.parametrize("mode", [0o750, 0o705, 0o770])
def test_what_others_may_use_is_refused_with_what_to_do(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "pairing"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(ConfigError, match=f"mode {mode:o}.*chmod 700"):
        private_folder(folder)
    key = tmp_path / "key"
    key.touch()
    key.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        require_private(key)


def test_a_file_that_is_there_stays(tmp_path: Path) -> None:
    create_once(tmp_path / "key", b"first")
    create_once(tmp_path / "key", b"second")
    assert (tmp_path / "key").read_bytes() == b"first"


@pytest.mark.parametrize("has_links", [True, False])
def test_of_several_at_once_one_makes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool) -> None:
    if not has_links:

        def refuse(*_: object) -> None:
            raise PermissionError

        monkeypatch.setattr(os, "link", refuse)
    begin = threading.Barrier(8)

    def create(number: int) -> None:
        begin.wait(60)
        create_once(tmp_path / "key", b"%d" % number * 1000)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(set((tmp_path / "key").read_bytes())) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["key"]


def test_a_file_that_cannot_be_written_whole_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        create_once(tmp_path / "key", b"secret")
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_replaced_whole_and_stays_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_private(tmp_path / "key", b"first")
    replace_private(tmp_path / "key", b"second")
    require_private(tmp_path / "key")

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        replace_private(tmp_path / "key", b"third")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("key", b"second")]


def test_the_folder_is_the_users_own_where_none_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_files.sys, "platform", "linux")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert private_folder(None) == tmp_path / "state" / "comfy-gpu-offload" / "pairing"
    monkeypatch.setenv("XDG_STATE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert private_folder(None) == tmp_path / ".local" / "state" / "comfy-gpu-offload" / "pairing"
    monkeypatch.setattr(private_files.sys, "platform", "darwin")
    assert private_folder(None).relative_to(tmp_path).parts[:2] == ("Library", "Application Support")
    monkeypatch.setattr(private_files.sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert private_folder(None) == tmp_path / "local" / "comfy-gpu-offload" / "pairing"


def test_a_folder_that_cannot_be_made_is_named_with_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match="COMFY_GPU_OFFLOAD_PAIRING_FOLDER"):
            private_folder(place)
        with pytest.raises(ConfigError, match="COMFY_GPU_OFFLOAD_RENTAL_FOLDER"):
            private_folder(place, "rental")


def test_a_user_without_a_home_is_told_of_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setenv("XDG_STATE_HOME", "")
    monkeypatch.setattr(private_files.sys, "platform", "linux")
    monkeypatch.setattr(Path, "home", fail)
    with pytest.raises(ConfigError, match="COMFY_GPU_OFFLOAD_PAIRING_FOLDER"):
        private_folder(None)
