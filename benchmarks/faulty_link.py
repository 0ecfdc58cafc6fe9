"""A TCP link on which one thing goes wrong at a chosen place: a cut, a flipped bit, a damaged head, silence."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Literal

from message_heads import Heads

sys.path.append(str(Path(__file__).parents[1]))
from tests.support.tcp_proxy import TcpProxy, Way

Kind = Literal["kill", "cut", "flip", "head", "silence", "reload", "restart"]

_HEAD_BYTES = 300


@dataclass(frozen=True)
class Fault:
    """A fault that happens once.

    Attributes:
        at: which byte it strikes, counted over both ways from when it was armed; for `head`, which head of an HTTP
            message or a WebSocket's frame.
        seed: of what is made of that byte or head.
    """

    kind: Kind
    at: int
    seed: int = 0


@dataclass
class _Watched:
    """One connection's heads, and whether it has gone silent."""

    heads: Heads = field(default_factory=Heads)
    is_silent: threading.Event = field(default_factory=threading.Event)


class FaultyLink(TcpProxy[_Watched]):
    """Forwards to `target`, a port of this machine.

    Attributes:
        bytes, heads: how many have passed since `arm`, both ways.
        struck: whether the fault has.
    """

    def __init__(self, target: int, actions: Mapping[Kind, Callable[[], None]] | None = None) -> None:
        """`actions`: what faults call that happen elsewhere, as at the worker; all of those kinds."""
        self._actions = actions or {}
        self._lock = threading.Lock()
        self.arm(None)
        super().__init__(target)

    def arm(self, fault: Fault | None) -> None:
        """Count from 0, with that fault to come."""
        with self._lock:
            self._fault = fault
            self.bytes = self.heads = 0
            self.struck = False

    def _new_state(self) -> _Watched:
        return _Watched()

    def _passed(self, piece: bytes, way: Way, connection: _Watched) -> tuple[bytes, bool]:
        with self._lock:
            heads = connection.heads.found(piece, way)
            fault, count = self._fault, len(piece)
            before = self.bytes
            if fault is not None and fault.kind == "head":
                before, count = self.heads, len(heads)
            self.bytes += len(piece)
            self.heads += len(heads)
            strikes = fault is not None and not self.struck and before <= fault.at < before + count
            self.struck = self.struck or strikes
        if strikes and fault is not None:
            if fault.kind == "head":
                return _damaged(piece, heads[fault.at - before], Random(fault.seed)), True
            return self._strike(fault, piece, fault.at - before, connection)
        return (b"" if connection.is_silent.is_set() else piece), True

    def _strike(self, fault: Fault, piece: bytes, at: int, connection: _Watched) -> tuple[bytes, bool]:
        if fault.kind == "cut":
            return piece[:at], False
        if fault.kind == "flip":
            flipped = piece[at] ^ (1 << Random(fault.seed).randrange(8))
            return piece[:at] + bytes([flipped]) + piece[at + 1 :], True
        if fault.kind == "silence":
            connection.is_silent.set()
        else:
            self._actions[fault.kind]()
        return (piece if fault.kind in {"reload", "restart"} else piece[:at]), True


def _damaged(piece: bytes, head: tuple[int, int], random: Random) -> bytes:
    """Return `piece` with one byte of that head flipped in a bit, replaced, left out or doubled."""
    begin, length = head
    at = begin + random.randrange(min(length, _HEAD_BYTES))
    what = random.randrange(4)
    middle = (
        bytes([piece[at] ^ (1 << random.randrange(8))]),
        bytes([(piece[at] + random.randrange(1, 256)) % 256]),
        b"",
        piece[at : at + 1] * 2,
    )[what]
    return piece[:at] + middle + piece[at + 1 :]
