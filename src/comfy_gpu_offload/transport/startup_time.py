"""The time that exchanges waited for a worker to start: neither its computing nor the network's."""

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
    """Add so many seconds to this thread's."""
    _sum.seconds += seconds


@contextmanager
def counted() -> Iterator[None]:
    """Count the time that the block takes."""
    started = perf_counter()
    try:
        yield
    finally:
        add(perf_counter() - started)
