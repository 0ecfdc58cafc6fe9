"""Blocking calls on a thread of their own, so that the wait for them can be interrupted."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from .clock import CHECK_INTERVAL_S

T = TypeVar("T")

_THREAD_NAME = "comfy-gpu-offload-runpod"


def _nothing() -> None:
    """Do nothing about what `work` raised."""


def interruptibly(
    work: Callable[[], T],
    watch: Callable[[], None],
    late: Callable[[T], None],
    failed: Callable[[], None] = _nothing,
) -> T:
    """Return what `work` returns, or raise what it raises. Call `watch` every 0.1 s; what it raises ends the wait.

    `late` is given what `work` returned when nobody waits for it any more, on a thread of its own. `failed` is
    called on the thread of `work` when that raises, whether or not somebody still waits.
    """
    running = _Running(work, late, failed)
    try:
        running.start()
        while not running.ended.wait(CHECK_INTERVAL_S):
            watch()
    except BaseException:
        running.abandon()
        raise
    return running.result()


class _Running(Generic[T]):
    def __init__(self, work: Callable[[], T], late: Callable[[T], None], failed: Callable[[], None]) -> None:
        self.ended = threading.Event()
        self._work = work
        self._late = late
        self._failed = failed
        self._lock = threading.Lock()
        self._abandoned = False
        self._returned: list[T] = []
        self._raised: BaseException | None = None

    def start(self) -> None:
        # A daemon: the interpreter must not wait for a server when it ends.
        threading.Thread(target=self._run, name=_THREAD_NAME, daemon=True).start()

    def abandon(self) -> None:
        with self._lock:
            self._abandoned = True
            was_returned = bool(self._returned)
        if was_returned:
            threading.Thread(target=self._late, args=self._returned, name=_THREAD_NAME, daemon=True).start()

    def result(self) -> T:
        error, self._raised = self._raised, None
        if error is None:
            return self._returned[0]
        try:
            raise error
        finally:
            del error  # with its traceback it would keep itself alive, and the request's body

    def _run(self) -> None:
        try:
            value = self._work()
        except BaseException as error:
            self._raised = error
            self._failed()
            self.ended.set()
            return
        with self._lock:
            self._returned.append(value)
            self.ended.set()
            is_late = self._abandoned
        if is_late:
            self._late(value)
