"""Warnings of ComfyUI while it loads a file, collected for the client, who does not see the worker's log."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ...protocol.messages import MAX_WARNINGS, WARNING_CHARACTERS

_OWN = __package__.rpartition(".comfyui.")[0]
# The part of a path before its last component, on either kind of system.
_FOLDERS = re.compile(r"(?<![\w.])(?:[A-Za-z]:)?[\\/](?:[^\\/\s'\",:;]+[\\/])+")
_MORE = " …"


class _Warnings(logging.Handler):
    """A handler that keeps the warnings of one thread, without folders: those are the worker's business alone."""

    def __init__(self, paths: Sequence[Path]) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []
        self._paths = paths
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        is_own = record.name == _OWN or record.name.startswith(f"{_OWN}.")
        if record.thread != self._thread or is_own or len(self.texts) == MAX_WARNINGS:
            return
        try:
            text = record.getMessage()
        except Exception:  # of a record whose arguments do not fit its text
            return
        for path in self._paths:
            text = text.replace(str(path), path.name)
        text = " ".join(_FOLDERS.sub("", text).split())
        if text and text not in self.texts:
            self.texts.append(_shortened(text))


@contextmanager
def warnings_while_loading(*paths: Path) -> Iterator[list[str]]:
    """Collect warnings and errors that this thread logs while `paths` are loaded, bounded in number and size."""
    handler, root = _Warnings(paths), logging.getLogger()
    root.addHandler(handler)
    try:
        yield handler.texts
    finally:
        root.removeHandler(handler)


def _shortened(text: str) -> str:
    if len(text) <= WARNING_CHARACTERS:
        return text
    return text[: WARNING_CHARACTERS - len(_MORE)] + _MORE
