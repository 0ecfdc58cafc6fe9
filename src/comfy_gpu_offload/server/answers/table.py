"""The table of functions that answer requests, by the class of the message."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ...protocol.envelope import Envelope
from ...protocol.messages import ClientMessage
from ..replies import Finish
from ..waiting import PATIENT, Caller

if TYPE_CHECKING:
    from ..worker_parts import WorkerParts

RequestT = TypeVar("RequestT", bound=ClientMessage)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request besides its message.

    Attributes:
        envelope: the whole content of its frame.
        caller: whoever waits for the reply.
        started: when its frame arrived, by `time.perf_counter`, in seconds.
    """

    envelope: Envelope
    caller: Caller = PATIENT
    started: float = field(default_factory=perf_counter)


ANSWERS: Final[dict[type[ClientMessage], Callable[[WorkerParts, Any, Asked], Finish]]] = {}
"""By the class of a request's message, the function that begins to answer it. `answers` fills it."""


def answers(
    kind: type[RequestT],
) -> Callable[[Callable[[WorkerParts, RequestT, Asked], Finish]], Callable[[WorkerParts, RequestT, Asked], Finish]]:
    """Register the decorated function as the one that answers messages of the class `kind`.

    The function checks the request and queues what it asks for, without waiting. It returns a function that waits
    for the reply. What it raises becomes a fault (`server.faults`).

    Raises:
        TypeError: another function answers them already.
    """

    def register(
        function: Callable[[WorkerParts, RequestT, Asked], Finish],
    ) -> Callable[[WorkerParts, RequestT, Asked], Finish]:
        if kind in ANSWERS:
            raise TypeError(f"two functions answer a {kind.__name__}")
        ANSWERS[kind] = function
        return function

    return register
