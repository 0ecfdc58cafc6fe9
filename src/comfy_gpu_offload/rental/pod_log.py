"""The last lines of a pod's log, read on a thread while the pod starts."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable

from ..errors import OffloadError
from ..runpod.rest.client import RestClient

_KEPT = 200
_LONGEST = 300
_AGAIN_S = 5.0


class _EndedError(Exception):
    """Nobody follows the log any more."""


class PodLog:
    """`with PodLog(api, pod, secrets) as log:` follows a pod's log until the block ends. Thread-safe."""

    def __init__(self, api: RestClient, pod: str, secrets: Iterable[str] = ()) -> None:
        """`secrets`: texts that are not to be shown, wherever the log has them."""
        self._api = api
        self._pod = pod
        self._secrets = tuple(secrets)
        self._lines: deque[str] = deque(maxlen=_KEPT)
        self._count = 0
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="comfy-gpu-offload-pod-log", daemon=True)

    def __enter__(self) -> PodLog:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    @property
    def count(self) -> int:
        """The number of lines so far."""
        with self._lock:
            return self._count

    def last(self, number: int) -> list[str]:
        """Return the newest lines."""
        with self._lock:
            return list(self._lines)[-number:]

    def _follow(self) -> None:
        tail = _KEPT
        while not self._ended.is_set():
            try:
                for line in self._api.pod_logs(self._pod, tail=tail, check=self._check):
                    tail = 0  # of a stream that is opened anew, only what comes then
                    self._keep(line.line)
            except _EndedError:
                return
            except OffloadError:  # a log is a help, not a need
                pass
            self._ended.wait(_AGAIN_S)

    def _check(self) -> None:
        if self._ended.is_set():
            raise _EndedError

    def _keep(self, text: str) -> None:
        shown = without(text, self._secrets)
        if shown:
            with self._lock:
                self._lines.append(shown)
                self._count += 1


def without(text: str, secrets: Iterable[str]) -> str:
    """Return a line of a log as it may be shown."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return text[:_LONGEST].rstrip()
