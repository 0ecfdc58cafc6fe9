"""The transfer of one file from its origin into the worker's folder, over as many connections as that takes."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from random import SystemRandom

from pydantic import SecretStr

from ..model_store.incoming_file import IncomingFile
from ..model_store.placement import Place
from ..model_store.present_file import same_file
from ..model_store.provenance import Origin, is_sha256
from .errors import BrokenTransferError, DownloadFailedError
from .guarded_http import Answer, GuardedHttp
from .remote_file import RemoteFile

logger = logging.getLogger(__name__)

_BLOCK = 1024**2
_TOLD_EVERY_BYTES = 256 * 1024
_ATTEMPTS = 8
_FIRST_S, _LONGEST_S = 1.0, 30.0
# A site that asks for more is told to the user in place of waiting.
_LONGEST_ASKED_S = 600.0
_COMMIT = re.compile(r"[0-9a-f]{40}")
_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")
_LENGTH = re.compile(r"[0-9]{1,18}")
_RANDOM = SystemRandom()


@dataclass(frozen=True)
class Watcher:
    """The four ways by which a transfer tells of itself, and is ended.

    Attributes:
        progress: is told how many bytes are there, of how many; None if that is not known.
        waits: is told why the transfer waits, or None once it goes on.
        check: raises what ends the transfer; called often.
        sleep: waits for so many seconds, or raises as `check` does.
    """

    progress: Callable[[int, int | None], None]
    waits: Callable[[str | None], None]
    check: Callable[[], None]
    sleep: Callable[[float], None]


class Attempts:
    """The attempts at something that breaks; those that come further do not count."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher
        self._failed = 0

    def begin_anew(self) -> None:
        """Forget the failures: there has been progress."""
        self._failed = 0

    def after(self, error: BrokenTransferError) -> None:
        """Wait for the next attempt.

        Raises:
            DownloadFailedError: there is to be none.
        """
        self._failed += 1
        seconds = min(_LONGEST_S, _FIRST_S * 2.0 ** (self._failed - 1)) * _RANDOM.uniform(0.5, 1.0)
        if error.after_s is not None:
            seconds = max(seconds, error.after_s)
        if self._failed >= _ATTEMPTS or seconds > _LONGEST_ASKED_S:
            asked = "" if error.after_s is None else f", and asks to wait for {error.after_s:.0f} s"
            raise DownloadFailedError(
                f"{error}{asked}. What has come is kept: ask for the file again to continue."
            ) from error
        self._watcher.waits(f"{error}; the next attempt is in {seconds:.0f} s")
        self._watcher.sleep(seconds)
        self._watcher.waits(None)


class Transfer:
    """One file's way from its origin.

    Args:
        file: at its origin.
        place: where it belongs.
        bearer: for the origin, or None.
    """

    def __init__(
        self, http: GuardedHttp, file: RemoteFile, place: Place, bearer: SecretStr | None, watcher: Watcher
    ) -> None:
        self._http = http
        self._file = file
        self._place = place
        self._bearer = bearer
        self._watcher = watcher

    def run(self) -> Origin:
        """Return where the file came from, once it has its name.

        Raises:
            ModelStoreError: it is refused, fails, or there is no room.
            Whatever the watcher's `check` raises.
        """
        attempts = Attempts(self._watcher)
        while True:
            self._watcher.check()
            self._came_further = False
            try:
                return self._attempt()
            except BrokenTransferError as error:
                if self._came_further:
                    attempts.begin_anew()
                attempts.after(error)

    def _attempt(self) -> Origin:
        if self._file.sha256 is not None:  # else the site tells it
            present = same_file(self._place, self._file.sha256, self._file.source, self._watcher.check)
            if present is not None:
                return present
        with self._http.get(self._file.address, self._bearer) as answer:
            content = _Content.of(answer, self._file)
            present = same_file(self._place, content.file.sha256, content.file.source, self._watcher.check)
            if present is not None:
                return present
            with IncomingFile(self._place, content.key, content.file.size_bytes, self._watcher.check) as incoming:
                if incoming.received and not content.can_be_continued:
                    incoming.restart()
                if not incoming.received:
                    self._receive(answer, incoming, content)
                elif incoming.received != content.file.size_bytes:
                    answer.response.close()
                    self._continue(incoming, content)
                return incoming.finish(content.file.sha256, content.file.source)

    def _continue(self, incoming: IncomingFile, content: _Content) -> None:
        """Ask for the rest of a file. A server that sends all of it again is read from the start."""
        headers = {"Range": f"bytes={incoming.received}-"}
        if content.tag is not None:
            headers["If-Range"] = content.tag
        with self._http.get(self._file.address, self._bearer, headers) as answer:
            begin = _begin_of(answer)
            if answer.status == 416 or (begin is not None and begin != incoming.received):
                incoming.discard()
                raise BrokenTransferError(f"{answer.address.place.host} sends another part than was asked for")
            if begin is None:
                again = _Content.of(answer, self._file)
                if again.key != content.key:
                    incoming.close()
                    raise BrokenTransferError(f"{answer.address.place.host} has another file now")
                incoming.restart()
            self._receive(answer, incoming, content)

    def _receive(self, answer: Answer, incoming: IncomingFile, content: _Content) -> None:
        size = content.file.size_bytes
        told = incoming.received
        self._watcher.progress(told, size)
        for block in answer.blocks(_BLOCK):
            self._watcher.check()
            incoming.write(block)
            self._came_further = True
            if incoming.received - told >= _TOLD_EVERY_BYTES:
                told = incoming.received
                self._watcher.progress(told, size)
        if size is not None and incoming.received < size:
            raise BrokenTransferError(f"{answer.address.place.host} ended the transfer early")


@dataclass(frozen=True)
class _Content:
    """The content of an answer, by what its headers say.

    Attributes:
        file: with what is known now: size, hash, and the commit of the revision.
        tag: the strong entity tag, by which the rest can be asked for later.
        key: names the content, for its part.
    """

    file: RemoteFile
    tag: str | None
    key: str

    @property
    def can_be_continued(self) -> bool:
        """Return whether a part of it is known to be one of the same content."""
        return self.file.sha256 is not None or self.tag is not None

    @classmethod
    def of(cls, answer: Answer, file: RemoteFile) -> _Content:
        """Read the headers.

        Raises:
            DownloadFailedError: the body is encoded.
        """
        headers, first = answer.headers, answer.first_headers
        if headers.get("Content-Encoding", "identity").lower() != "identity":
            raise DownloadFailedError(
                f"{answer.address.place.host} sends the file in an encoding that was not asked."
            )
        tag = headers.get("ETag")
        tag = tag if tag and tag.startswith('"') else None
        known = replace(file, size_bytes=file.size_bytes or _size_of(answer))
        linked = _linked_sha256(first) if file.source.startswith("hf:") else None
        if None not in {linked, file.sha256} and linked != file.sha256:
            raise DownloadFailedError(
                f"{file.name:.200} has the SHA-256 {linked} at {file.address.place.host}, and not {file.sha256}: "
                "it is another file, or another revision of it."
            )
        known = replace(known, sha256=file.sha256 or linked)
        commit = first.get("X-Repo-Commit", "")
        if file.source.startswith("hf:") and _COMMIT.fullmatch(commit):
            known = replace(known, source=f"{file.source.rpartition('@')[0]}@{commit}")
        return cls(known, tag, known.sha256 or f"{file.address} {tag} {known.size_bytes}")


def _linked_sha256(headers: Mapping[str, str]) -> str | None:
    """Return the SHA-256 that Hugging Face has of a file in LFS, by which it names it."""
    for name in ("X-Linked-Etag", "ETag"):
        tag = headers.get(name, "").removeprefix("W/").strip('"')
        if is_sha256(tag):
            return tag
    return None


def _size_of(answer: Answer) -> int | None:
    text = answer.headers.get("Content-Length", "")
    return int(text) if answer.status == 200 and _LENGTH.fullmatch(text) else None


def _begin_of(answer: Answer) -> int | None:
    """Return where the part begins that an answer holds; None if it holds the whole file."""
    match = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    if answer.status != 206:
        return None
    return int(match[1]) if match else -1
