"""Replies as models of `schema`. What a model does not need never keeps a reply from being read.

A list may hold what others made, in forms that no document tells, and what bills must be found in it all the same.
"""

from __future__ import annotations

import json
import logging
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from ...errors import RunPodReplyError
from ..api_requests import Reply, Request

logger = logging.getLogger(__name__)

Model = TypeVar("Model", bound=BaseModel)
Location = tuple[int | str, ...]

# A member within a member that may be missing takes another pass, and no model is deeper.
_PASSES = 4


def parsed(kind: type[Model], reply: Reply, request: Request) -> Model:
    """Return the reply as a `kind`. A member that is null or not of the documented form counts as missing.

    Raises:
        RunPodReplyError: what may not be missing is. Names the fields, never what is in them.
    """
    try:
        return _validated(kind, _without_nulls(json.loads(reply.body)))
    except ValidationError as error:
        wrong = "; ".join(f"{_dotted(e['loc'])}: {e['msg']}" for e in error.errors()[:3])
    except (ValueError, RecursionError):
        wrong = "it is not JSON"
    raise RunPodReplyError(
        f"RunPod's reply to {request.method} {request.path.partition('?')[0]} is not of the form it documents "
        f"({wrong}). Is COMFY_GPU_OFFLOAD_RUNPOD_API RunPod's?{request.doubt if request.submits else ''}",
        status=reply.status,
        maybe_submitted=request.submits,
    )


def _validated(kind: type[Model], value: Any) -> Model:
    """Return `value` as a `kind`, without members that are wrong and may be missing.

    Raises:
        ValidationError: others are wrong.
    """
    first: ValidationError | None = None
    for _ in range(_PASSES):
        try:
            return kind.model_validate_json(json.dumps(value))
        except ValidationError as error:
            first = first or error
            wrong = [(each["loc"], each["type"] == "missing") for each in error.errors()]
            taken = [_take_out(value, location, is_missing=is_missing) for location, is_missing in wrong]
            if not all(taken):
                break
    assert first is not None  # noqa: S101  # nosec B101 - the loop ends by return or after an error
    raise first


def _take_out(value: Any, location: Location, *, is_missing: bool) -> bool:
    """Take the wrong member out of `value`, or the one around it that lacks a member; return whether it has one."""
    if is_missing:
        location = location[:-1]
    while location and isinstance(location[-1], int):  # of a list, all of it
        location = location[:-1]
    if not location:
        return False
    for part in location[:-1]:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):  # taken out already, with what is around it
            return True
    if isinstance(value, dict) and value.pop(location[-1], None) is not None:
        logger.debug("RunPod's %s is not of the form it documents, and is passed over", _dotted(location))
    return True


def _dotted(location: Location) -> str:
    return ".".join(str(part) for part in location) or "the whole"


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(item) for name, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value
