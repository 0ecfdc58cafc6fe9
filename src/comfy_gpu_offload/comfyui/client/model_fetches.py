"""Models that a page has the worker download: begun by a click, followed by any page, stopped by another click."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

from ...client.connect import connect_from
from ...client.model_downloads import FetchProgress
from ...config.settings import Settings, load_settings
from ...errors import OffloadError
from ..installation import release

logger = logging.getLogger(__name__)

State = Literal["none", "fetching", "done", "stopped", "failed"]

_MOST_AT_ONCE: Final = 8
# Of those that have ended, for pages that ask once more.
_MOST_KEPT: Final = 64


@dataclass(frozen=True)
class WantedFile:
    """A file that a workflow names.

    Attributes:
        source: its address.
        folder: ComfyUI's name of the folder that it belongs into.
        name: of the file.
        sha256: of the file, if the workflow says so.
    """

    source: str
    folder: str
    name: str
    sha256: str | None = None


@dataclass(frozen=True)
class FetchState:
    """The state of one download.

    Attributes:
        received, size_bytes: of the file; the size is None while nobody knows it.
        text: an error, or a wait, in words for the user; else empty.
    """

    state: State
    received: int = 0
    size_bytes: int | None = None
    text: str = ""


class _StoppedError(Exception):
    """A page has stopped the download."""


class ModelFetches:
    """The downloads that pages have begun, each on a thread of its own. Thread-safe.

    The lock guards the table. Each download's state is replaced as a whole.
    """

    def __init__(self, settings: Callable[[], Settings] = load_settings) -> None:
        self._settings = settings
        self._fetches: OrderedDict[WantedFile, _Fetch] = OrderedDict()
        self._lock = threading.Lock()

    def begin(self, wanted: WantedFile) -> FetchState:
        """Begin the download, unless it is under way; return its state."""
        with self._lock:
            known = self._fetches.get(wanted)
            if known is not None and known.state.state == "fetching":
                return known.state
            if sum(each.state.state == "fetching" for each in self._fetches.values()) >= _MOST_AT_ONCE:
                return FetchState("failed", text=f"{_MOST_AT_ONCE} models are being fetched: wait for one of them.")
            made = self._fetches[wanted] = _Fetch(wanted, self._settings)
            self._fetches.move_to_end(wanted)
            for each in [key for key, fetch in self._fetches.items() if fetch.state.state != "fetching"]:
                if len(self._fetches) > _MOST_KEPT:
                    del self._fetches[each]
        threading.Thread(target=made.run, name="comfy-gpu-offload-fetch", daemon=True).start()
        return made.state

    def state(self, wanted: WantedFile) -> FetchState:
        """Return the state of a download."""
        with self._lock:
            known = self._fetches.get(wanted)
        return FetchState("none") if known is None else known.state

    def stop(self, wanted: WantedFile) -> FetchState:
        """Stop the download soon, if it is under way; the worker keeps what has come."""
        with self._lock:
            known = self._fetches.get(wanted)
        if known is None:
            return FetchState("none")
        known.stop()
        return known.state


class _Fetch:
    """One download. Its state is written by its own thread."""

    def __init__(self, wanted: WantedFile, settings: Callable[[], Settings]) -> None:
        self.state = FetchState("fetching")
        self._wanted = wanted
        self._settings = settings
        self._is_stopped = False

    def stop(self) -> None:
        """Have the thread end the download."""
        self._is_stopped = True

    def run(self) -> None:
        """Have the worker download the file; note how that ends."""
        try:
            self.state = self._fetched()
        except _StoppedError:
            self.state = FetchState("stopped")
        except OffloadError as error:
            logger.warning("The worker does not fetch %s: %s", self._wanted.name, error)
            self.state = FetchState("failed", text=str(error))
        except Exception as error:  # the page must see an end
            logger.exception("fetching a model failed")
            self.state = FetchState("failed", text=f"{type(error).__name__}: ComfyUI's log says more.")

    def _fetched(self) -> FetchState:
        settings, wanted = self._settings(), self._wanted
        tokens: dict[str, Any] = {"hf_token": settings.hf_token, "civitai_token": settings.civitai_token}
        with connect_from(settings, release.here(), self._waits, self._check) as session:
            found = session.fetch_model(
                wanted.source,
                folder=wanted.folder,
                name=wanted.name,
                sha256=wanted.sha256,
                on_progress=self._progress,
                check=self._check,
                **tokens,
            )
        return FetchState("done", found.size_bytes, found.size_bytes)

    def _waits(self, text: str) -> None:
        self.state = FetchState("fetching", text=text)

    def _progress(self, progress: FetchProgress) -> None:
        self.state = FetchState("fetching", progress.received, progress.size_bytes, progress.waits_for or "")

    def _check(self) -> None:
        if self._is_stopped:
            raise _StoppedError


fetches: Final = ModelFetches()
"""Those of this ComfyUI's pages."""
