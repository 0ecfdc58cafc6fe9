"""The refusal of what changes a worker's model files where its operator does not allow that."""

from __future__ import annotations

from ...protocol.messages import Fault, FaultCode
from ..faults import RefusedError


def refuse_unless_allowed(is_allowed: bool) -> None:
    """Refuse a request that would change the worker's model files, unless clients may do so.

    Raises:
        RefusedError: they may not.
    """
    if not is_allowed:
        text = (
            "This worker lets clients neither bring nor remove model files: start it with --allow-downloads "
            "(COMFY_GPU_OFFLOAD_MODEL_DOWNLOADS=on there)."
        )
        raise RefusedError(Fault(code=FaultCode.NOT_ALLOWED, message=text))
