"""The watch for connections that are open and lead nowhere, as a tunnel that hangs; a worker may just compute.

Where something came in an exchange and stopped, as the progress in a run's stream, the connection is given up.
Where nothing came yet, whoever answers at the address is asked on another connection.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic

from ..errors import SilentConnectionError


class SilenceWatch:
    """Watches one exchange's connection.

    Args:
        url: the worker's, for messages.
        limit_s: seconds for which nothing may move before somebody is asked.
        answers: says whether anybody answers on another connection, within seconds; None where nobody can be asked,
            and whoever stands in between ends what is dead.
        prompt: whether a reply is overdue if another connection is answered.
    """

    def __init__(
        self, url: str, limit_s: float, *, answers: Callable[[], bool] | None, prompt: bool = False
    ) -> None:
        self._url = url
        self._limit_s = limit_s
        self._answers = answers
        self._prompt = prompt
        self._was_answered = False
        self._since: float | None = None
        self._question: _Question | None = None

    def broken(self) -> None:
        """Note that something moves."""
        self._since = self._question = None
        self._was_answered = False

    def lasts(self, *, awaits_reply: bool, was_heard: bool) -> None:
        """Note that nothing moves. `was_heard`: whether something came in this exchange.

        Raises:
            SilentConnectionError: nothing has moved for too long.
        """
        now = monotonic()
        if self._since is None:
            self._since = now
        elif now - self._since >= self._limit_s:
            if awaits_reply and was_heard:
                raise self._error(now - self._since)
            self._ask(now)

    def _ask(self, now: float) -> None:
        if self._prompt and self._was_answered:
            raise self._error(2 * self._limit_s)
        if self._answers is None:
            return
        if self._question is None:
            self._question = _Question(self._answers)
        answer = self._question.answer
        if answer is False:
            raise self._error(now - (self._since or now))
        if answer:
            self.broken()
            self._was_answered = True

    def _error(self, seconds: float) -> SilentConnectionError:
        return silent(self._url, seconds, self._limit_s)


def silent(url: str, seconds: float, limit_s: float) -> SilentConnectionError:
    """Return the error for a connection to `url` that was silent for so many seconds, of `limit_s` allowed."""
    return SilentConnectionError(
        f"{url} has been silent for {seconds:.0f} s, though the connection is open: a tunnel that hangs "
        "(ssh -o ServerAliveInterval=5 ends by itself then), or a machine that sleeps. "
        f"COMFY_GPU_OFFLOAD_SILENCE_S={limit_s:g} sets how long that is waited for."
    )


class _Question:
    """A question that is asked on a thread of its own. `answer` is None until there is one."""

    def __init__(self, ask: Callable[[], bool]) -> None:
        self.answer: bool | None = None

        def run() -> None:
            self.answer = ask()

        threading.Thread(target=run, name="comfy-gpu-offload-ping", daemon=True).start()
