"""Noise for a client that measures its link."""

from __future__ import annotations

import secrets
from time import perf_counter

import torch

from ..io import tree
from ..io.frame import EncodedFrame
from ..protocol.envelope import seal
from ..protocol.messages import Probe, Probed
from .callers import PATIENT, Caller
from .executor import Executor
from .job_replies import Finish, answered


def begin_probe(executor: Executor, message: Probe, started: float, caller: Caller = PATIENT) -> Finish:
    """Queue the making of what `caller` asks for; `started`: when its frame came."""

    def answer(_: float) -> EncodedFrame:
        noise = torch.frombuffer(bytearray(secrets.token_bytes(max(1, message.reply_bytes))), dtype=torch.uint8)
        probed = Probed(worker_s=perf_counter() - started, request=message.request)
        return seal(probed, tree.pack(noise[: message.reply_bytes], "noise"))

    if not message.reply_bytes:  # nothing to make: it need not wait for other clients' calls
        return lambda: answer(0.0)
    name = message.request or secrets.token_hex(16)
    turn = executor.enter(message.client, name, "a measurement of the link", caller, place="probe")
    return lambda: answered(turn, answer)
