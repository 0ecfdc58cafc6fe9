"""How long exchanges waited for a worker to start, which is neither its computing nor the network's time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter


class _Sum(threading.local):
    seconds = 0.0


_sum = _Sum()


def waited_s() -> float:
    """Return the seconds that this thread's exchanges have waited so far."""
    return _sum.seconds


def add(seconds: float) -> None:
    """Count so many more for this thread."""
    _sum.seconds += seconds


@contextmanager
def counted() -> Iterator[None]:
    """Count what the block takes."""
    started = perf_counter()
    try:
        yield
    finally:
        add(perf_counter() - started)
