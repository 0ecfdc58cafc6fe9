"""A process of a benchmark's own, which says where it is reached once it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any


@contextmanager
def worker_process(serve: Callable[..., None], *arguments: Any) -> Iterator[Any]:
    """What `serve` sends when it is ready, called in a new process with a connection and these arguments."""
    here, there = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=serve, args=(there, *arguments), daemon=True)
    process.start()
    there.close()  # so that the end of a process that failed is seen here
    try:
        yield here.recv()
    finally:
        process.terminate()
        process.join()
