"""A server process of a benchmark, which says at which address it is reached."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any


@contextmanager
def worker_process(serve: Callable[..., None], *arguments: Any) -> Iterator[Any]:
    """Yield what `serve`, called in a new process with a connection and these arguments, sends when ready."""
    here, there = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=serve, args=(there, *arguments), daemon=True)
    process.start()
    there.close()  # so that the end of a process that failed is seen here
    try:
        yield here.recv()
    finally:
        process.terminate()
        process.join()
