"""Ctrl-C, SIGTERM and a closed terminal while something is rented: one ends the work, none its clean-up."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# SIGHUP comes when the terminal is closed; Windows has none, and sends SIGBREAK.
_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)
)


class Interruptions:
    """`with Interruptions() as interruptions:` the first signal raises KeyboardInterrupt, later ones do nothing.

    So what an `except BaseException` begins is not cut short by an impatient second Ctrl-C. Elsewhere than on the
    main thread, where Python takes no signals, nothing is done.
    """

    def __init__(self) -> None:
        self._earlier: dict[int, Any] = {}
        self._depth = 0
        self._is_pending = False
        self._is_spent = False

    def __enter__(self) -> Interruptions:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._earlier[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Raise a signal that comes within the block after it: its work must be known to be done, or not.

        If the block itself raises, that goes on in place of the interruption.
        """
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
        if self._is_pending and not self._depth:
            self._is_pending = False
            raise KeyboardInterrupt

    def _handle(self, _: int, __: FrameType | None) -> None:
        if self._is_spent:
            return
        self._is_spent = True
        if self._depth:
            self._is_pending = True
            return
        raise KeyboardInterrupt
