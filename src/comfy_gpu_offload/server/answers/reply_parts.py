"""Answers `fetch`: a part of a reply that the worker keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import MessageError
from ...io import tree
from ...io.buffers import tensor_from
from ...io.dtypes import DTYPES
from ...protocol.envelope import seal
from ...protocol.messages import Fault, FaultCode, Fetch, ReplyPart
from ..faults import RefusedError
from ..replies import Finish
from .table import Asked, answers

if TYPE_CHECKING:
    from ..worker_parts import WorkerParts


@answers(Fetch)
def begin_fetch(worker: WorkerParts, message: Fetch, _: Asked) -> Finish:
    """Cut the part out of the reply.

    Raises:
        RefusedError: the worker does not have that reply.
        MessageError: the part is beyond the reply's end.
    """
    frame = worker.calls.reply(message.call)
    if frame is None:
        text = (
            "This worker does not keep that reply: it was restarted, or is another one (a queue endpoint needs max "
            "workers 1 for replies of this size), or had no room for it."
        )
        raise RefusedError(Fault(code=FaultCode.UNKNOWN_REPLY, message=text, retryable=True))
    if message.begin + message.size_bytes > frame.size_bytes:
        raise MessageError("a part is beyond the reply's end")
    part = tensor_from(frame.part(message.begin, message.size_bytes), DTYPES["U8"], (message.size_bytes,))
    reply = seal(ReplyPart(request=message.request, instance=worker.instance), tree.pack(part, "part"))
    return lambda: reply
