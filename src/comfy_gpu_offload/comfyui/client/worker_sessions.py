"""Sessions with the workers that the settings name: opened once, closed when the settings name another."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ...client.connect import connect_from
from ...client.session import Session
from ...config.settings import Settings
from ...errors import ConnectError
from ...transport.base import CHECK_INTERVAL_S, Check
from ..installation import release
from . import node_lines

# What no session reads: the price of a GPU, and what a worker on this machine would keep.
_UNREAD = {"gpu_rate", "store_bytes", "upload_folder", "upload_bytes", "model_bytes", "comfyui_python"}


@dataclass
class _Place:
    lock: threading.Lock = field(default_factory=threading.Lock)
    session: Session | None = None
    awaits: str | None = None  # what whoever holds the lock waits for

    @contextmanager
    def taken(self, check: Check | None, *, await_worker: bool) -> Iterator[None]:
        """Hold the lock. Who does not await a worker does not wait for one who does, either."""
        while not self.lock.acquire(timeout=CHECK_INTERVAL_S):
            if check is not None:
                check()
            if self.awaits is not None and not await_worker:
                raise ConnectError(f"The worker is not there yet, and a run waits for it: {self.awaits}")
        try:
            yield
        finally:
            self.awaits = None
            self.lock.release()

    def announce(self, text: str) -> None:
        self.awaits = text
        node_lines.announce(text)


class Sessions:
    """One session for the same settings, so that what a worker holds stays known from run to run. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._places: dict[Settings, _Place] = {}
        self._followed: Settings | None = None

    def opened(self, settings: Settings, check: Check | None = None, *, await_worker: bool = False) -> Session:
        """Return the session for `settings`, opening it where there is none.

        `check` is called while a worker starts; what it raises ends the wait. `await_worker`: waits for one that
        does not answer yet, and says so on the node that runs.

        Raises:
            ConfigError: no worker is configured.
            TransportError: the worker cannot be reached.
            WorkerFaultError: it refused.
        """
        with self._lock:
            place = self._places.setdefault(_read_by_sessions(settings), _Place())
        with place.taken(check, await_worker=await_worker):
            if place.session is None:
                here = release.here()
                place.session = connect_from(settings, here, place.announce, check, await_worker=await_worker)
            return place.session

    def known(self, settings: Settings) -> Session | None:
        """Return the session for `settings` where one is open, without waiting for one that is being opened."""
        with self._lock:
            place = self._places.get(_read_by_sessions(settings))
        return None if place is None else place.session

    def follow(self, settings: Settings) -> bool:
        """Close the sessions for other settings; return whether these differ from the last ones followed.

        A model that was loaded over a closed session still works: its next call opens a connection.
        """
        wanted = _read_by_sessions(settings)
        with self._lock:
            moved = self._followed is not None and wanted != self._followed
            self._followed = wanted
            left = [self._places.pop(other) for other in [*self._places] if other != wanted]
        for place in left:
            with place.lock:
                if place.session is not None:
                    place.session.close()
        return moved


def _read_by_sessions(settings: Settings) -> Settings:
    defaults = {name: Settings.model_fields[name].default for name in _UNREAD}
    return settings.model_copy(update=defaults)
