"""Answers `store` and `define`: keeps uploaded tensors, and the sets of weight patches that name them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...protocol.envelope import seal
from ...protocol.messages import Define, Store, Stored
from ..replies import Finish
from .table import Asked, answers

if TYPE_CHECKING:
    from ..worker_parts import WorkerParts


@answers(Store)
def begin_store(worker: WorkerParts, message: Store, asked: Asked) -> Finish:
    """Keep the frame's tensors, or the one that is joined from parts.

    Raises:
        MessageError: a tensor came without its data or its digest, or the parts do not make the whole.
        RefusedError: a tensor does not match its digest, or a part is missing.
    """
    if message.whole is not None:
        worker.uploads.join(message.whole)
    else:
        worker.uploads.keep(asked.envelope.tensors)
    return _stored(worker, message.request)


@answers(Define)
def begin_define(worker: WorkerParts, message: Define, asked: Asked) -> Finish:
    """Keep a set of weight patches.

    Raises:
        FrameError: the template is malformed.
        RefusedError: a tensor that it names is missing.
    """
    worker.uploads.define(message.template, asked.envelope.skeleton)
    return _stored(worker, message.request)


def _stored(worker: WorkerParts, request: str | None) -> Finish:
    reply = seal(Stored(instance=worker.instance, request=request))
    return lambda: reply
