"""Answers `probe`: noise for a client that measures its link."""

from __future__ import annotations

import secrets
from time import perf_counter
from typing import TYPE_CHECKING

import torch

from ...io import tree
from ...io.frame import EncodedFrame
from ...protocol.envelope import seal
from ...protocol.messages import Probe, Probed
from ..replies import Finish, answered
from .table import Asked, answers

if TYPE_CHECKING:
    from ..worker_parts import WorkerParts


@answers(Probe)
def begin_probe(worker: WorkerParts, message: Probe, asked: Asked) -> Finish:
    """Queue the making of the noise; a probe that asks for no bytes is answered at once."""

    def answer(_: float) -> EncodedFrame:
        noise = torch.frombuffer(bytearray(secrets.token_bytes(max(1, message.reply_bytes))), dtype=torch.uint8)
        probed = Probed(worker_s=perf_counter() - asked.started, request=message.request)
        return seal(probed, tree.pack(noise[: message.reply_bytes], "noise"))

    if not message.reply_bytes:  # nothing is made, so it need not wait for other clients' calls
        return lambda: answer(0.0)
    name = message.request or secrets.token_hex(16)
    turn = worker.executor.enter(message.client, name, "a measurement of the link", asked.caller, place="probe")
    return lambda: answered(turn, answer)
