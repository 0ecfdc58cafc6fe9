from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.platforms import needs_posix

from comfy_gpu_offload.config.env_file import read_settings, with_setting, write_settings

NAME = "COMFY_GPU_OFFLOAD_COMPRESSION"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", f"{NAME}=zstd\n"),
        ("OTHER=1", f"OTHER=1\n{NAME}=zstd\n"),
        (f"# {NAME}=planes\n", f"# {NAME}=planes\n{NAME}=zstd\n"),
        (f"{NAME}=auto\nOTHER=1\n", f"{NAME}=zstd\nOTHER=1\n"),
        (f"A=1\r\nexport {NAME} = auto\r\nB=2\r\n", f"A=1\r\n{NAME}=zstd\r\nB=2\r\n"),
        (f"{NAME}=none\nOTHER=1\n{NAME}=auto", f"OTHER=1\n{NAME}=zstd"),
        (f"\ufeff{NAME}=none\r\nOTHER=1\r\n", f"\ufeff{NAME}=zstd\r\nOTHER=1\r\n"),
    ],
)
def test_one_line_is_changed_and_every_other_stays(before: str, after: str) -> None:
    assert with_setting(before, NAME, "zstd") == after


@needs_posix
def test_a_file_keeps_its_mode_and_a_new_one_is_for_this_user_alone(tmp_path: Path) -> None:
    old, new = tmp_path / ".env", tmp_path / "new.env"
    old.write_text("OTHER=1\n")
    old.chmod(0o640)
    for path in (old, new):
        write_settings(path, {NAME: "zstd"})
        assert path.read_text().endswith(f"{NAME}=zstd\n")
    assert [path.stat().st_mode & 0o777 for path in (old, new)] == [0o640, 0o600]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".env", "new.env"]


@pytest.mark.parametrize(
    "before",
    [
        "",
        "A=1\n",
        f"# mine\r\n{NAME}='auto'\r\nB=2\r\n",
        f"{NAME}=\nB=2\n",
        f"\ufeff{NAME}=none\nB=2\n",
    ],
)
def test_what_stood_there_is_written_back(tmp_path: Path, before: str) -> None:
    path = tmp_path / ".env"
    path.write_bytes(before.encode())
    earlier = read_settings(path, [NAME, "OTHER"])
    write_settings(path, {NAME: "zstd", "OTHER": "x"})
    assert b"=zstd" in path.read_bytes()
    write_settings(path, earlier)
    assert path.read_bytes().decode().removeprefix("\ufeff") == before.removeprefix("\ufeff")


def test_a_file_that_is_no_text_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_bytes("A=1\n".encode("utf-16"))
    with pytest.raises(UnicodeError):
        write_settings(path, {NAME: "zstd"})
    assert path.read_bytes() == "A=1\n".encode("utf-16")
