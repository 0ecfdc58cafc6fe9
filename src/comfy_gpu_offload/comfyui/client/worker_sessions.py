"""Sessions with the workers that the settings name: opened once, closed when the settings name another one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ...client.connect import connect_from
from ...client.session import Session
from ...config.settings import Settings
from ...errors import ConnectError
from ...protocol.messages import ModelRef
from ...transport.base import CHECK_INTERVAL_S, Check
from ..installation import release
from . import node_lines

# Settings that do not matter to a session: the price of a GPU, and those of a worker on this machine.
_UNREAD = {
    *("gpu_rate", "store_bytes", "upload_folder", "upload_bytes", "pairing_folder", "model_bytes"),
    "comfyui_python",
}


@dataclass
class _Slot:
    """The session for some settings, or the place where a thread is opening it.

    Attributes:
        lock: held while the session is opened or closed.
        session: None until it is open.
        waiting: the last message about a worker that the lock's holder waits for, or None.
    """

    lock: threading.Lock = field(default_factory=threading.Lock)
    session: Session | None = None
    waiting: str | None = None

    @contextmanager
    def held(self, check: Check | None, *, await_worker: bool) -> Iterator[None]:
        """Hold the lock.

        Args:
            check: called while another thread holds it; an error that it raises ends the wait.
            await_worker: whether to go on waiting while the other thread waits for a worker.

        Raises:
            ConnectError: the other thread waits for a worker, and the caller does not.
        """
        while not self.lock.acquire(timeout=CHECK_INTERVAL_S):
            if check is not None:
                check()
            if self.waiting is not None and not await_worker:
                raise ConnectError(
                    f"The worker is not there yet, and a run is waiting for it: {self.waiting}. Ask again later."
                )
        try:
            yield
        finally:
            self.waiting = None
            self.lock.release()

    def announce(self, text: str) -> None:
        """Show on the running node what is waited for, and remember it."""
        self.waiting = text
        node_lines.announce(text)


class Sessions:
    """The open sessions, one for all equal settings, so that a worker's contents stay known from run to run.

    Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._slots: dict[Settings, _Slot] = {}
        self._followed: Settings | None = None

    def opened(
        self,
        settings: Settings,
        check: Check | None = None,
        *,
        await_worker: bool = False,
        loading: ModelRef | None = None,
    ) -> Session:
        """Return the session for `settings`, and open it if there is none.

        Args:
            settings: they name the worker.
            check: called while a worker starts; an error that it raises ends the wait.
            await_worker: whether to wait for a worker that does not answer yet. The running node then says so.
            loading: a model that the session will be asked for, so that a new one asks for it at once.

        Raises:
            ConfigError: no worker is configured.
            TransportError: the worker cannot be reached.
            WorkerFaultError: the worker refused.
        """
        with self._lock:
            slot = self._slots.setdefault(_relevant(settings), _Slot())
        with slot.held(check, await_worker=await_worker):
            if slot.session is None:
                here = release.here()
                slot.session = connect_from(
                    settings, here, slot.announce, check, await_worker=await_worker, loading=loading
                )
            return slot.session

    def known(self, settings: Settings) -> Session | None:
        """Return the session for `settings` if it is open; do not wait for one that is being opened."""
        with self._lock:
            slot = self._slots.get(_relevant(settings))
        return None if slot is None else slot.session

    def follow(self, settings: Settings) -> bool:
        """Close the sessions for other settings; return whether `settings` differ from those of the last call.

        A model that was loaded over a closed session still works: its next call opens a connection.
        """
        wanted = _relevant(settings)
        with self._lock:
            moved = self._followed is not None and wanted != self._followed
            self._followed = wanted
            outdated = [self._slots.pop(other) for other in [*self._slots] if other != wanted]
        for slot in outdated:
            with slot.lock:
                if slot.session is not None:
                    slot.session.close()
        return moved


def _relevant(settings: Settings) -> Settings:
    """Return the settings with defaults for those that do not matter to a session."""
    defaults = {name: Settings.model_fields[name].default for name in _UNREAD}
    return settings.model_copy(update=defaults)
