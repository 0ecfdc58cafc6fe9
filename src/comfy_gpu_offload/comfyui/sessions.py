"""Sessions with the workers that the settings name: opened once, closed when the settings name another."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from ..client.connect import connect_from
from ..client.session import Session
from ..config.settings import Settings
from ..transport.base import Check
from . import release, status

# What no session reads: the price of a GPU, and what a worker on this machine would keep.
_UNREAD = {"gpu_rate", "store_bytes", "upload_folder", "upload_bytes", "model_bytes"}


@dataclass
class _Place:
    lock: threading.Lock = field(default_factory=threading.Lock)
    session: Session | None = None


class Sessions:
    """One session for the same settings, so that what a worker holds stays known from run to run. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._places: dict[Settings, _Place] = {}
        self._followed: Settings | None = None

    def opened(self, settings: Settings, check: Check | None = None) -> Session:
        """Return the session for `settings`, opening it where there is none.

        `check` is called while a worker starts; what it raises ends the wait.

        Raises:
            ConfigError: no worker is configured.
            TransportError: the worker cannot be reached.
            WorkerFaultError: it refused.
        """
        with self._lock:
            place = self._places.setdefault(_read_by_sessions(settings), _Place())
        with place.lock:
            if place.session is None:
                place.session = connect_from(settings, release.here(), status.announce, check)
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
