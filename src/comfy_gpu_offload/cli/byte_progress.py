"""The progress of a file in bytes: a line on the terminal that changes; in a log, a line now and then."""

from __future__ import annotations

import sys
from collections.abc import Callable
from time import monotonic
from typing import Final, TextIO

_TERMINAL_EVERY_S: Final = 0.2
_LOG_EVERY_S: Final = 10.0
# The rate is that of the last seconds.
_RATE_OVER_S: Final = 5.0
_WIDTH: Final = 30


class ByteProgress:
    """The progress of one piece of work after another. For one thread. Use it in a `with` block.

    Args:
        stream: where it is shown; stderr by default, so that output can be piped.
        clock: returns seconds.
    """

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = monotonic) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._is_terminal = self._stream.isatty()
        self._every_s = _TERMINAL_EVERY_S if self._is_terminal else _LOG_EVERY_S
        self._shown_at = float("-inf")
        self._width = 0
        self._what = ""
        self._seen: list[tuple[float, int]] = []

    def show(self, what: str, done: int, of: int | None, waits_for: str | None = None) -> None:
        """Show that `done` of `of` bytes are done of `what`, unless it was shown a moment ago.

        Args:
            of: None where nobody knows it.
            waits_for: what the work waits for, in words for users; shown in place of the rest.
        """
        now = self._clock()
        if what != self._what:
            self._what, self._seen, self._shown_at = what, [], float("-inf")
        self._seen = [(at, size) for at, size in self._seen if now - at <= _RATE_OVER_S]
        self._seen.append((now, done))
        is_done = of is not None and done >= of
        if now - self._shown_at < self._every_s and not is_done:
            return
        self._shown_at = now
        if waits_for is not None:
            self._write(f"{what}: {waits_for}")
            return
        bar = "" if of is None else f" {_bar(done, of)}"
        self._write(f"{what}{bar} {_amount(done, of)}{self._rate(done, of)}")
        if is_done:
            self.end()

    def end(self) -> None:
        """End the line, so that what is printed next begins on one of its own."""
        if self._width:
            self._stream.write("\n")
            self._stream.flush()
        self._width = 0

    def __enter__(self) -> ByteProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def _rate(self, done: int, of: int | None) -> str:
        (first_at, first), (last_at, last) = self._seen[0], self._seen[-1]
        if last_at - first_at < 1.0 or last <= first:
            return ""
        rate = (last - first) / (last_at - first_at)
        left = f", {_duration((of - done) / rate)} left" if of and done < of else ""
        return f" at {rate / 1e6:.1f} MB/s{left}"

    def _write(self, text: str) -> None:
        if self._is_terminal:
            self._stream.write("\r" + text.ljust(self._width))
            self._width = len(text)
        else:
            self._stream.write(text + "\n")
        self._stream.flush()


def _bar(done: int, of: int) -> str:
    filled = _WIDTH * done // max(1, of)
    return f"[{'#' * filled}{'.' * (_WIDTH - filled)}]"


def _amount(done: int, of: int | None) -> str:
    if of is None:
        return f"{done / 1e9:.2f} GB"
    unit, scale = ("GB", 1e9) if of >= 1e9 else ("MB", 1e6)
    return f"{100 * done // max(1, of)} %, {done / scale:.2f} of {of / scale:.2f} {unit}"


def _duration(seconds: float) -> str:
    minutes = round(seconds) // 60
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {round(seconds) % 60} s"
