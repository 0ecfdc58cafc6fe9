"""The downloads of a worker: each a job on a thread of its own, which any number of clients may follow."""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

from ...backends.base import ModelFolder
from ...protocol.messages import Fault, FaultCode
from ..faults import RefusedError, fault_of
from ..lifetime import Activity
from ..model_store.placement import Place, place_of
from ..model_store.provenance import Origin
from ..model_store.refusals import FileInUseError
from ..replies import on_a_thread
from .allowed_hosts import AllowedHosts
from .errors import BrokenTransferError, DownloadStoppedError
from .guarded_http import GuardedHttp
from .origins import Origins, folder_of
from .remote_file import OriginTokens, RemoteFile, Sites
from .sources import Source, parse_source
from .transfer import Attempts, Transfer, Watcher

logger = logging.getLogger(__name__)

_AT_ONCE = 2
_MOST_JOBS = 64
_KEPT_S = 1800.0
# A client that has not asked for so long no longer counts as a follower.
_FOLLOWS_S = 30.0
_IN_USE_S = 1.0


@dataclass(frozen=True)
class DownloadOptions:
    """The operator's settings for downloads.

    Attributes:
        hosts: that models are taken from.
        sites: that sources name; their hosts have to be among `hosts`.
        ca_file: as `certificates.tls_context`.
    """

    hosts: AllowedHosts = field(default_factory=AllowedHosts)
    sites: Sites = field(default_factory=Sites)
    ca_file: Path | None = None


@dataclass(frozen=True)
class Wanted:
    """A file that a client wants.

    Attributes:
        text: the source, as the client wrote it.
        folder, name, sha256: None where the source tells.
    """

    text: str = field(repr=False)
    folder: str | None = None
    name: str | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class DownloadState:
    """The state of a download at one moment; see `protocol.messages.ModelProgress`."""

    received: int = 0
    size_bytes: int | None = None
    place: Place | None = None
    waits_for: str | None = None
    origin: Origin | None = None


class Download:
    """One download. Thread-safe.

    Attributes:
        name: by which it is followed.
        wanted: by whoever began it.
    """

    def __init__(self, wanted: Wanted) -> None:
        self.name = secrets.token_hex(16)
        self.wanted = wanted
        self._state = DownloadState()
        self._error: BaseException | None = None
        self._followers: dict[str, float] = {}
        self._stop = threading.Event()
        self._ended_at: float | None = None
        self._changed = threading.Condition()

    @property
    def is_over(self) -> bool:
        """Return whether it has ended, well or not."""
        return self._ended_at is not None

    @property
    def has_failed(self) -> bool:
        """Return whether it has ended without the file, or is about to."""
        return self._error is not None or self._stop.is_set()

    @property
    def ended_at(self) -> float:
        """Return when it ended, in seconds of the monotonic clock; infinity before."""
        return float("inf") if self._ended_at is None else self._ended_at

    def state(self, client: str, wait_s: float) -> DownloadState:
        """Return its state, after `wait_s` seconds or when it has ended; `client` counts as a follower.

        Raises:
            Whatever ended it.
        """
        with self._changed:
            self._followers[client] = monotonic()
            self._changed.wait_for(lambda: self.is_over, wait_s)
            if self._error is not None:
                raise self._error
            return self._state

    def leave(self, client: str) -> bool:
        """Return whether the download is stopped, because no other client follows it."""
        with self._changed:
            self._followers.pop(client, None)
            now = monotonic()
            if self.is_over or any(now - seen < _FOLLOWS_S for seen in self._followers.values()):
                return False
            self.stop()
            return True

    def stop(self) -> None:
        """Stop it, whoever follows it. Its part is kept."""
        self._stop.set()

    def check(self) -> None:
        """Raise if the download was stopped.

        Raises:
            DownloadStoppedError: it was.
        """
        if self._stop.is_set():
            raise DownloadStoppedError("The download was stopped. Its part is kept: ask again to continue it.")

    def sleep(self, seconds: float) -> None:
        """Wait, unless the download is stopped.

        Raises:
            DownloadStoppedError: it is.
        """
        self._stop.wait(seconds)
        self.check()

    def set(self, **changes: object) -> None:
        """Change the state."""
        with self._changed:
            self._state = DownloadState(**{**vars(self._state), **changes})

    def end(self, error: BaseException | None = None) -> None:
        """Record the end, and wake whoever waits for it."""
        with self._changed:
            self._error = error
            self._ended_at = monotonic()
            self._changed.notify_all()


class Downloads:
    """All downloads of a worker. Thread-safe; the lock guards the table, so that each file is begun once.

    Args:
        folders: returns those of the backend.
        activity: the record of the worker's use, to which downloads count.
    """

    def __init__(
        self,
        options: DownloadOptions,
        folders: Callable[[], Mapping[str, ModelFolder]],
        activity: Activity | None = None,
    ) -> None:
        http = GuardedHttp(options.hosts, options.ca_file)
        self._http = http
        self._hosts = options.hosts
        self._sites = options.sites
        self._origins = Origins(http, options.sites)
        self._folders = folders
        self._activity = activity or Activity()
        self._jobs: dict[str, Download] = {}
        self._turns = threading.BoundedSemaphore(_AT_ONCE)
        self._lock = threading.Lock()

    def begin(self, wanted: Wanted, tokens: OriginTokens) -> Download:
        """Begin a download, or return the one of the same file that is under way.

        Raises:
            RefusedSourceError: the source is none.
            RefusedError: too many are under way.
        """
        source = parse_source(wanted.text)
        with self._lock:
            self._drop_old()
            for job in self._jobs.values():
                if job.wanted == wanted and not job.is_over and not job.has_failed:
                    return job
            if sum(not job.is_over for job in self._jobs.values()) >= _MOST_JOBS:
                text = f"{_MOST_JOBS} downloads are under way at this worker."
                raise RefusedError(Fault(code=FaultCode.BUSY, message=text, retryable=True))
            job = Download(wanted)
            self._jobs[job.name] = job
        on_a_thread(lambda: self._run(job, source, tokens), "download")
        return job

    def get(self, name: str) -> Download:
        """Return the download of that name.

        Raises:
            RefusedError: the worker does not have it.
        """
        with self._lock:
            found = self._jobs.get(name)
        if found is None:
            text = "This worker does not have that download: it was restarted, or is another one."
            raise RefusedError(Fault(code=FaultCode.UNKNOWN_RUN, message=text, retryable=True))
        return found

    def close(self) -> None:
        """Stop all downloads; their parts are kept."""
        with self._lock:
            jobs = list(self._jobs.values())
        for job in jobs:
            job.stop()

    def _drop_old(self) -> None:
        now = monotonic()
        self._jobs = {name: job for name, job in self._jobs.items() if now - job.ended_at < _KEPT_S}

    def _run(self, job: Download, source: Source, tokens: OriginTokens) -> None:
        try:
            with self._activity.in_use(), _Turn(self._turns, job):
                origin = self._download(job, source, tokens)
            job.set(origin=origin, received=origin.size_bytes, size_bytes=origin.size_bytes, waits_for=None)
            job.end()
        except BaseException as error:  # for whoever follows it
            code = fault_of(error).code.value
            logger.log(logging.ERROR if code == "internal" else logging.INFO, "a download ended: %s", code)
            job.end(error)

    def _download(self, job: Download, source: Source, tokens: OriginTokens) -> Origin:
        watcher = Watcher(
            progress=lambda received, size: job.set(received=received, size_bytes=size),
            waits=lambda text: job.set(waits_for=None if text is None else text[:1024]),
            check=job.check,
            sleep=job.sleep,
        )
        file = self._looked_up(job, source, tokens, watcher)
        place = self._place(job.wanted, file)
        job.set(place=place, size_bytes=file.size_bytes)
        self._hosts.check(file.address)
        logger.info("download of %s to %s begins", place.name, place.folder)
        bearer = self._sites.token_for(file.address, tokens)
        while True:
            try:
                return Transfer(self._http, file, place, bearer, watcher).run()
            except FileInUseError as error:
                job.set(waits_for=str(error))
                job.sleep(_IN_USE_S)
                job.set(waits_for=None)

    def _looked_up(self, job: Download, source: Source, tokens: OriginTokens, watcher: Watcher) -> RemoteFile:
        attempts = Attempts(watcher)
        while True:
            job.check()
            try:
                return self._origins.look_up(source, tokens, job.wanted.sha256)
            except BrokenTransferError as error:
                attempts.after(error)

    def _place(self, wanted: Wanted, file: RemoteFile) -> Place:
        folders = self._folders()
        return place_of(folders, folder_of(file, wanted.folder, folders), wanted.name or file.name)


class _Turn:
    """A turn among the downloads that run at once, which is waited for in a block's beginning."""

    def __init__(self, turns: threading.BoundedSemaphore, job: Download) -> None:
        self._turns = turns
        self._job = job

    def __enter__(self) -> None:
        while not self._turns.acquire(timeout=0.5):
            self._job.set(waits_for="other downloads at this worker")
            self._job.check()
        self._job.set(waits_for=None)

    def __exit__(self, *_: object) -> None:
        self._turns.release()
