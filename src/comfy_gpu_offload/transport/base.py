"""The interface of a transport: one exchange, one reply."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Literal, Protocol

from ..io.frame import EncodedFrame

Route = Literal["hello", "forward", "cancel", "sample"]

# Called with a line for the user that says what an exchange waits for, if not for the worker's computing.
Notify = Callable[[str], None]
# Called while an exchange waits; whatever it raises ends the exchange and is raised to the caller.
Check = Callable[[], None]
# Often enough to end a call within half a second of an interrupt, seldom enough to cost nothing.
CHECK_INTERVAL_S = 0.1


@dataclass(frozen=True)
class Timeouts:
    """Limits of one exchange, in seconds.

    Attributes:
        connect_s: for a connection.
        exchange_s: from the request's first byte to the reply's last.
        silence_s: for which a connection may stay open with nothing on it; twice that for a reply that is `prompt`,
            if another connection to the worker is answered.
        prompt: whether nothing is computed for the reply.
        setting: the variable that sets `exchange_s`, for messages.
    """

    connect_s: float = 10.0
    exchange_s: float = 330.0
    silence_s: float = 15.0
    prompt: bool = False
    setting: str = "COMFY_GPU_OFFLOAD_CALL_TIMEOUT_S"


@dataclass(frozen=True)
class Carrier:
    """The way by which frames travel.

    Attributes:
        name: in words for users.
        slower_why: why it is not a WebSocket, and what that costs; None where a WebSocket would be no better.
        is_shared: whether exchanges that are under way at the same time share one connection.
        opened_in_s: seconds from a connection's first byte to its first answer: a round trip, or two by a tunnel.
            None where that is not known.
    """

    name: str
    slower_why: str | None = None
    is_shared: bool = False
    opened_in_s: float | None = None


class Transport(Protocol):
    """Carries frames to one worker. Thread-safe: exchanges may overlap.

    Attributes:
        carrier: the way that the last exchange went; before the first, the one that is tried first.
        carries_cancel: whether a call is cancelled by a message of its own; if not, ending its exchange does it.
        peer: the name of who answers, for messages: an address, or an endpoint by its id.
    """

    carries_cancel: bool
    peer: str

    @property
    def carrier(self) -> Carrier:
        """See the class."""

    def exchange(
        self, route: Route, frame: EncodedFrame, timeouts: Timeouts, check: Check | None = None
    ) -> memoryview:
        """Send `frame` and return the reply, writable. One request, one reply; nothing is retried here.

        Raises:
            TransportError: the reply did not come whole; the class says why. No half of one is ever returned.
        """

    def stream(
        self, route: Route, frame: EncodedFrame, timeouts: Timeouts, check: Check | None = None
    ) -> Generator[memoryview]:
        """Send `frame` and yield the replies as they come, writable, until the worker ends them.

        `timeouts.exchange_s` is the longest silence, not the whole.

        Raises:
            TransportError: while they come: the rest will not.
        """

    def close(self) -> None:
        """Close every connection that is not in use. A later exchange opens new ones."""

    def forked(self) -> None:
        """Begin anew, in a process that was forked: the connections are another's, and are left without a word.

        Called while no other thread runs. Locks may be held for ever.
        """
