"""Sessions that wake up in another process, as a fork makes it: each begins anew there, under a name of its own."""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet


class Forked(Protocol):
    """Something that must not be shared with another process."""

    def forked(self) -> None:
        """Begin anew, in a process that has only this thread; whatever lock there is may be held for ever."""


_sessions: WeakSet[Forked] = WeakSet()
_registered: list[bool] = []


def tell_of_forks(session: Forked) -> None:
    """Have `session` told in each process that is forked from this one, before anything else runs there."""
    _sessions.add(session)
    if not _registered and hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
        _registered.append(True)
        os.register_at_fork(after_in_child=_woken)


def _woken() -> None:
    for session in list(_sessions):
        session.forked()
