"""The log of a pod or of a serverless worker, line by line, also over lost connections."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlencode

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from ...errors import RunPodError
from ...net.clock import Check
from ..api_requests import Request
from ..retry import Retries
from .api_calls import ApiCalls
from .event_stream import Event, events
from .options import RestOptions

_LONGEST_LINE = 4000


class LogLine(BaseModel):
    """A line of a log, of printable characters alone, which no terminal takes for a command.

    Attributes:
        source: ``container`` for what the worker prints, ``system`` for what the machine says of the container.
        ts: the time, as RunPod writes it.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    line: str
    source: str = ""
    ts: str = ""

    @field_validator("line", "source", "ts")
    @classmethod
    def _printable(cls, value: str) -> str:
        shown = value.rstrip("\r\n")[:_LONGEST_LINE]
        return "".join(c if c.isprintable() or c == "\t" else "\ufffd" for c in shown)


@dataclass(frozen=True)
class LogQuery:
    """The part of a log to read.

    Attributes:
        tail: how many of the lines that are there already.
        source: only lines of that source; None for all.
        quiet_s: seconds without a line after which to end; None for none.
    """

    tail: int
    source: Literal["container", "system"] | None
    quiet_s: float | None

    def encoded(self) -> str:
        """Return it as a URL's query."""
        return urlencode({"tail": self.tail, **({} if self.source is None else {"source": self.source})})


def log_lines(
    calls: ApiCalls, path: str, options: RestOptions, query: LogQuery, check: Check | None
) -> Iterator[LogLine]:
    """Yield the lines that are there and then those that come, until the stream ends or is quiet for long.

    A lost connection is made again, where it left off.

    Raises:
        RunPodError: RunPod refused, or could not be asked.
    """
    seen = _Seen()
    retries = Retries(options.retry, calls.clock, check)
    while True:
        headers = _headers(seen.resumed_after())
        request = Request("GET", f"{path}?{query.encoded()}", options.log_silence_s, headers=headers)
        try:
            for event in events(calls, request, query.quiet_s, check):
                if seen.is_new(event):
                    yield from _line_of(event)
                    retries = Retries(options.retry, calls.clock, check)
            return
        except RunPodError as error:
            if not retries.wait_after(error):
                raise


class _Seen:
    """The events with the id of the last one, which come again when the stream is taken up there."""

    def __init__(self) -> None:
        self._last = ""
        self._of_last: Counter[str] = Counter()
        self._again: Counter[str] = Counter()

    def resumed_after(self) -> str:
        """Return the id after which to take up the stream, and expect its events again."""
        self._again = self._of_last.copy()
        return self._last

    def is_new(self, event: Event) -> bool:
        """Return whether the event has not come before; note it."""
        if event.id != self._last or not event.id:
            self._last, self._of_last, self._again = event.id, Counter(), Counter()
        elif self._again[event.data]:
            self._again[event.data] -= 1
            return False
        self._of_last[event.data] += 1
        return True


def _headers(last: str) -> dict[str, str]:
    resumed = {"Last-Event-ID": last} if last else {}
    return {"Accept": "text/event-stream", "Accept-Encoding": "identity", **resumed}


def _line_of(event: Event) -> Iterator[LogLine]:
    try:
        yield LogLine.model_validate_json(event.data)
    except ValidationError:  # a sign of life, or an event of a kind that was added since
        return
