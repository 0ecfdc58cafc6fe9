"""The progress of renting on a terminal: one line that changes; elsewhere, a line for each stage."""

from __future__ import annotations

import shutil
import sys
import threading
from contextlib import suppress
from time import monotonic
from types import TracebackType
from typing import TextIO

_EVERY_S = 1.0
_ERASE = "\r\x1b[K"


class ProgressLine:
    """`with ProgressLine() as progress:` shows stages until the block ends: see `rental.progress.Progress`.

    Its output may be gone, as when a terminal is closed: then it is silent, and the work goes on.
    """

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self._is_terminal = self._out.isatty()
        self._began = monotonic()
        self._stage = ""
        self._detail = ""
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._tick, name="comfy-gpu-offload-progress", daemon=True)

    def __enter__(self) -> ProgressLine:
        if self._is_terminal:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        with self._lock:
            if self._is_terminal:
                self._write(_ERASE)
            self._stage = ""

    def stage(self, text: str) -> None:
        """See `Progress`."""
        with self._lock:
            if text == self._stage:
                return
            self._stage, self._detail = text, ""
            if self._is_terminal:
                self._draw()
            else:
                self._write(f"{self._seconds()}  {text}\n")

    def detail(self, text: str) -> None:
        """See `Progress`."""
        with self._lock:
            self._detail = text
            if self._is_terminal:
                self._draw()

    def note(self, text: str) -> None:
        """See `Progress`."""
        with self._lock:
            self._write(f"{_ERASE if self._is_terminal else ''}{self._seconds()}  {text}\n")
            if self._is_terminal:
                self._draw()

    def _tick(self) -> None:
        while not self._ended.wait(_EVERY_S):
            with self._lock:
                if not self._ended.is_set():
                    self._draw()

    def _draw(self) -> None:
        if self._stage:
            text = f"{self._seconds()}  {self._stage}" + (f" · {self._detail}" if self._detail else "")
            width = shutil.get_terminal_size().columns - 1
            self._write(_ERASE + text[:width])

    def _seconds(self) -> str:
        return f"{monotonic() - self._began:5.0f} s"

    def _write(self, text: str) -> None:
        with suppress(OSError, ValueError):  # closed, or its reader has gone
            self._out.write(text)
            self._out.flush()
