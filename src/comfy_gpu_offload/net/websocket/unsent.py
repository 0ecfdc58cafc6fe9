"""The bytes that a connection has still to send."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from .payloads import Buffer


class Unsent:
    """A message under way, and short ones to follow it. Any thread may `add`; the rest is for one at a time."""

    def __init__(self) -> None:
        self._under_way: list[Buffer] = []
        self._short: deque[bytes] = deque()

    def begin(self, message: Iterable[Buffer]) -> None:
        """Take a message, whose memory is shared, once nothing else is under way."""
        self._under_way = [buffer for buffer in message if len(buffer)]

    def add(self, message: bytes) -> int:
        """Take a short message, and return how many bytes of such wait."""
        self._short.append(message)
        return sum(map(len, self._short))

    def next(self) -> list[Buffer]:
        """Return what is to be sent next; nothing if all was sent."""
        if not self._under_way and self._short:
            self._under_way = [self._short.popleft()]
        return self._under_way

    def sent(self, count: int) -> None:
        """Note that the first `count` bytes of it were sent."""
        left = self._under_way
        while left and count >= len(left[0]):
            count -= len(left.pop(0))
        if count:
            left[0] = memoryview(left[0])[count:]

    def copy(self) -> None:
        """Keep a copy of what is under way: its owner may write to the memory from now on."""
        self._under_way = [bytes(buffer) for buffer in self._under_way]
