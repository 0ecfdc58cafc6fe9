"""Sessions in a forked process: each begins anew there, as another client of the worker."""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet

import torch


class Forked(Protocol):
    """Something that a forked process must not share with its parent."""

    def forked(self) -> None:
        """Begin anew in the child, which has only this thread. Locks may be held for ever: make new ones."""


_sessions: WeakSet[Forked] = WeakSet()
_registered: list[bool] = []


def register_for_forks(session: Forked) -> None:
    """Have `session.forked` called in each process that is forked from this one, before anything else runs."""
    _sessions.add(session)
    if not _registered and hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
        _registered.append(True)
        os.register_at_fork(after_in_child=_after_fork)


def _after_fork() -> None:
    _renew_torchs_threads()
    for session in list(_sessions):
        session.forked()


def _renew_torchs_threads() -> None:
    """Have torch replace the threads that its pool lost by the fork, while there is one thread to ask it to.

    It replaces them when a thread first computes, without a lock: of two that do so at once, one finds no pool
    ("Invalid thread pool!", `caffe2::pthreadpool` in torch's caffe2/utils/threadpool/pthreadpool-cpp.cc).
    """
    torch.set_num_threads(torch.get_num_threads())
