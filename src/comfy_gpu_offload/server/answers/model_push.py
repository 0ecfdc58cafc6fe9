"""Answers `push_model` and `push_part`: takes a client's own model file in parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ...errors import MessageError
from ...io.buffers import tensor_bytes
from ...io.frame import EncodedFrame
from ...protocol.envelope import seal
from ...protocol.messages.model_push import MAX_PUSHED_PART_BYTES, Pushed, PushModel, PushPart
from ..model_store.permission import refuse_unless_allowed
from ..replies import Finish
from .table import Asked, answers

if TYPE_CHECKING:
    from ..worker_parts import WorkerParts


@answers(PushModel)
def begin_push(worker: WorkerParts, message: PushModel, _: Asked) -> Finish:
    """Open the push or find it; the reply says how much has arrived.

    Raises:
        RefusedError: the worker's operator lets clients bring no files.
        ModelStoreError: the worker does not take such a file.
    """
    refuse_unless_allowed(worker.takes_models)
    pushes = worker.pushes

    def reply() -> EncodedFrame:
        state = pushes.begin(message)
        return seal(
            Pushed(
                request=message.request,
                instance=worker.instance,
                received=state.received,
                received_sha256=None if state.is_whole else state.sha256,
                is_whole=state.is_whole,
            )
        )

    return reply


@answers(PushPart)
def add_part(worker: WorkerParts, message: PushPart, asked: Asked) -> Finish:
    """Write the part, once those before it are written.

    Raises:
        MessageError: there is no part of a permitted size in the frame.
        RefusedError: the worker does not have the push, or clients may bring no files.
    """
    refuse_unless_allowed(worker.takes_models)
    pushes = worker.pushes
    part = asked.envelope.unpack()
    if not isinstance(part, torch.Tensor) or part.dtype != torch.uint8 or part.ndim != 1:
        raise MessageError("a part of a file must be one uint8 tensor of one dimension")
    if not 0 < part.nbytes <= MAX_PUSHED_PART_BYTES:
        raise MessageError(f"a part of a file must have 1 to {MAX_PUSHED_PART_BYTES} bytes")
    data = tensor_bytes(part)

    def reply() -> EncodedFrame:
        state = pushes.add(message, data, asked.caller.is_gone)
        return seal(
            Pushed(
                request=message.request,
                instance=worker.instance,
                received=state.received,
                is_whole=state.is_whole,
            )
        )

    return reply
