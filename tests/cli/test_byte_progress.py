"""The line that shows how far a file is, on a terminal and in a log."""

from __future__ import annotations

from io import StringIO

from comfy_gpu_offload.cli.byte_progress import ByteProgress


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def shown(stream: StringIO, *, every_s: float = 0.5) -> list[str]:
    clock = Clock()
    with ByteProgress(stream, clock) as line:
        for done in range(0, 4001, 200):
            line.show("sending a", done * 10**6, 4000 * 10**6)
            clock.now += every_s
    return stream.getvalue().replace("\r", "\n").split("\n")


def test_a_terminal_shows_rate_and_rest() -> None:
    lines = shown(Terminal())
    assert "sending a [##########....................] 35 %, 1.40 of 4.00 GB at 400.0 MB/s, 0 min 6 s left" in [
        line.rstrip() for line in lines
    ]
    assert lines[-1] == ""
    assert lines[-2].rstrip().startswith("sending a [##############################] 100 %, 4.00 of 4.00 GB")


def test_a_log_has_a_line_now_and_then() -> None:
    lines = shown(StringIO(), every_s=3.0)
    assert len(lines) < 10
    assert lines[0] == "sending a [..............................] 0 %, 0.00 of 4.00 GB"


def test_a_file_of_unknown_size_has_no_bar() -> None:
    stream = StringIO()
    with ByteProgress(stream, Clock()) as line:
        line.show("fetching a", 2 * 10**9, None)
    assert stream.getvalue() == "fetching a 2.00 GB\n"


def test_a_wait_is_told() -> None:
    stream = StringIO()
    with ByteProgress(stream, Clock()) as line:
        line.show("fetching a", 0, None, "the site answers 503")
    assert stream.getvalue() == "fetching a: the site answers 503\n"


def test_each_piece_of_work_has_a_line() -> None:
    stream = Terminal()
    with ByteProgress(stream, Clock()) as line:
        line.show("hashing a", 5, 5)
        line.show("sending a", 5, 5)
    assert stream.getvalue().count("\n") == 2
