from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from comfy_gpu_offload.cli import arguments
from comfy_gpu_offload.tuning.link import Link


@pytest.mark.parametrize("text", ["0", "101", "-1", "1.5", "", "many"])
def test_a_number_is_whole_and_in_range(text: str) -> None:
    read = arguments.whole_number(1, 100)
    assert (read("1"), read("100")) == (1, 100)
    with pytest.raises(argparse.ArgumentTypeError):
        read(text)


@pytest.mark.parametrize(
    ("text", "minutes"), [("20", 20), ("20m", 20), ("20MIN", 20), ("4h", 240), ("720h", 43_200)]
)
def test_a_time_is_minutes_or_says_otherwise(text: str, minutes: int) -> None:
    assert arguments.minutes(text) == minutes


@pytest.mark.parametrize("text", ["", "0", "-1", "4 hours", "1d", "nan", "1.5h", "1e3", "721h", "h"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        arguments.minutes(text)


@pytest.mark.parametrize(
    ("read", "name", "says"),
    [
        (arguments.output_file(), "missing/a.png", "there is no folder"),
        (arguments.output_file(), "", "is a folder"),
        (arguments.output_file(), "file/a.png", "there is no folder"),
        (arguments.output_file([".png"]), "a.txt", "must end in .png"),
        (arguments.output_file([".png"]), "a", "must end in .png"),
        (arguments.output_file(makes_folder=True), "file/further/a.json", "there is no folder"),
        (arguments.output_file(), "/proc/a.png", "nothing can be written"),
        (arguments.output_folder, "file", "there is no folder"),
        (arguments.output_folder, "/proc/plots", "nothing can be written"),
        (arguments.existing_file, "missing", "No such file"),
        (arguments.existing_file, "", "Is a directory"),
    ],
)
def test_what_cannot_be_written_or_read_is_said(
    tmp_path: Path, read: Callable[[str], Any], name: str, says: str
) -> None:
    (tmp_path / "file").touch()
    if name.startswith("/proc") and not Path("/proc/self").exists():
        pytest.skip("there is no folder here in which nobody may write")
    with pytest.raises(argparse.ArgumentTypeError, match=says):
        read(str(tmp_path / name))


def test_looking_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "old.png").write_text("old")
    assert arguments.output_file([".png"])(str(tmp_path / "old.png")) == tmp_path / "old.png"
    assert arguments.output_file()(str(tmp_path / "new.png")) == tmp_path / "new.png"
    assert arguments.output_file(makes_folder=True)(str(tmp_path / "a" / "b" / "new.json")).name == "new.json"
    assert arguments.output_folder(str(tmp_path / "a" / "b")) == tmp_path / "a" / "b"
    assert [path.name for path in tmp_path.iterdir()] == ["old.png"]
    assert (tmp_path / "old.png").read_text() == "old"


def test_a_link_is_read_in_milliseconds_and_megabits() -> None:
    assert arguments.link("40/20/100") == Link(0.04, 2.5e6, 12.5e6)
    assert arguments.link("40/20/100/1%") == Link(0.04, 2.5e6, 12.5e6, 0.01)


@pytest.mark.parametrize(
    "text",
    [
        *[
            "",
            "40",
            "40/20",
            "40/0/100",
            "-1/20/100",
            "nan/20/100",
            "40/inf/100",
            "40/20/x",
            "40/20/100/1",
            "1/2/3/4/5",
        ],
        *["40/20/100/80%", "40/20/100/%", "40/20/100/-1%", "1e9/20/100"],
    ],
)
def test_what_is_no_link_is_refused_in_a_line_that_says_how_to_write_one(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="give MS/MBIT/MBIT, as 40/20/100"):
        arguments.link(text)
