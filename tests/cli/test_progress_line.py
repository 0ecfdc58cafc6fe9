from __future__ import annotations

import io

from comfy_gpu_offload.cli.progress_line import ProgressLine


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Gone(io.StringIO):
    def write(self, _: str) -> int:
        raise OSError(5, "Input/output error")


def told(progress: ProgressLine) -> None:
    with progress:
        progress.stage("first")
        progress.stage("first")
        progress.detail("a detail")
        progress.note("a note")
        progress.stage("second")


def test_elsewhere_than_on_a_terminal_each_stage_and_note_is_a_line() -> None:
    out = io.StringIO()
    told(ProgressLine(out))
    assert [line.split("  ")[-1] for line in out.getvalue().splitlines()] == ["first", "a note", "second"]


def test_on_a_terminal_one_line_changes_and_notes_stay() -> None:
    out = Terminal()
    told(ProgressLine(out))
    shown = [line.rpartition("\x1b[K")[2] for line in out.getvalue().split("\n")]
    assert shown[0].endswith("a note")
    assert shown[1] == ""
    assert "first · a detail" in out.getvalue()


def test_an_output_that_is_gone_stops_nothing() -> None:
    told(ProgressLine(Gone()))
